"""Extra arguments: which of them a transformation takes.

    update(updates, state, params, **extra)

optax hands extras on through `chain` and its like, so `**extra` in a signature says
nothing of what is inside. What a function closes over is therefore read: whether a link
names the extra, and whether any link keeps one that it does not name. An extra that
certainly nobody takes was misspelt, and is refused.
"""

import difflib
import dis
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import optax

# Those of optax and of ours that hand their extras on and do nothing else with them.
_PASS_ON = {'accompanied_move', 'apply_if_finite', 'chain', 'conditionally_mask',
            'conditionally_transform', 'decay_stale_state', 'flatten', 'gradient_move',
            'masked', 'named_chain', 'partition', 'with_extra_args_support'}
_DEPTH = 10  # of wrappers in wrappers, so that a cycle of closures ends


def accepted_extras(tx: optax.GradientTransformation, extra: dict) -> dict:
    """Return the extra arguments that the update of a transformation takes."""
    if _takes_none(tx):
        return {}
    if _rest(tx.update):
        return extra
    named = inspect.signature(tx.update).parameters
    return {k: v for k, v in extra.items() if k in named}


def takes(update: Any, key: str, depth: int = _DEPTH) -> bool | None:
    """Say whether an update takes an extra argument of that name.

    Args:
      update: a function, the update of a transformation; a transformation; or a tuple,
        list or dict of them, of which one takes it.
      key: name of the extra.

    Returns:
      Whether it does, or None if that cannot be told.

    >>> tx = optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau())
    >>> takes(tx, 'value'), takes(tx, 'valu')
    (True, False)
    """
    if not depth:
        return None
    if isinstance(update, optax.GradientTransformation):
        return not _takes_none(update) and takes(update.update, key, depth)
    if isinstance(update, tuple | list | dict):
        parts = update.values() if isinstance(update, dict) else update
        return _any(takes(part, key, depth - 1) for part in parts if _may_take(part))
    function = getattr(update, 'update', update)  # `optax.MultiSteps`
    try:
        named = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a function without a signature, of C
        return None
    if key in named:
        return True
    code = getattr(function, '__code__', None)
    # Of a wrapper its own, not that of what it wraps.
    rest = _rest(function, follow_wrapped=code is None)
    if rest is None or code and not _reads(code, rest):
        return False
    inner = list(_inside(function))
    answer = _any(takes(part, key, depth - 1) for part in inner)
    if answer or code and _mentions(code, key):
        return True
    return False if answer is False and inner and _passes_on(function) else None


def check_extras(updates: Iterable[Any], extra: Iterable[str], words: Sequence[str],
                 where: str) -> None:
    """Raise a TypeError that names an extra which no update takes.

    Args:
      updates: as for `takes`.
      extra: names of the extras that are given.
      words: names of the arguments of the caller's own, one of which may be meant.
      where: what was called, for the error.
    """
    updates = list(updates)
    for key in extra:
        taken = _any(takes(update, key) for update in updates)
        meant = difflib.get_close_matches(key, words, 1, 0.75)
        if taken is False or taken is None and meant:
            hint = f'; was {meant[0]}= meant?' if meant else '.'
            raise TypeError(f'{where} got {key!r}, which the tx of no block '
                            f'takes{hint}')


def _rest(function: Callable, **options) -> str | None:
    """The name of the dict of extras in a signature: 'extra' of `**extra`."""
    parameters = inspect.signature(function, **options).parameters.values()
    return next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)


def _takes_none(tx: Any) -> bool:
    return isinstance(tx, optax.GradientTransformation) and not isinstance(
        tx, optax.GradientTransformationExtraArgs)


def _any(answers: Iterable[bool | None]) -> bool | None:
    """True if any is, else None if any is."""
    seen = list(answers)
    return any(seen) or (None if None in seen else False)


def _may_take(part: Any) -> bool:
    return isinstance(part, tuple | list | dict | optax.MultiSteps) or (
        callable(part) and not isinstance(part, type))


def _inside(function: Callable) -> Iterator[Any]:
    """What a function closes over, or a method's object holds, that may take extras."""
    cells = [cell.cell_contents for cell in getattr(function, '__closure__', None) or ()
             if cell != types.CellType()]
    held = vars(function.__self__).values() if inspect.ismethod(function) else ()
    return (part for part in [*cells, *held] if _may_take(part) and part != ())


def _passes_on(function: Callable) -> bool:
    return (getattr(function, '__module__', '').split('.')[0] in ('optax', 'cdgm')
            and function.__qualname__.split('.')[0] in _PASS_ON)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _reads(code: types.CodeType, name: str) -> bool:
    """Return whether code does more with a name than delete it, in functions too."""
    def named(step):  # Python 3.13 loads two names at once
        return name in step.argval if isinstance(step.argval, tuple) else (
            step.argval == name)

    idle = 'DELETE', 'MAKE_CELL', 'COPY_FREE_VARS'
    return any(named(step) and not step.opname.startswith(idle)
               for part in _codes(code) for step in dis.get_instructions(part))


def _mentions(code: types.CodeType, key: str) -> bool:
    return any(key in part.co_consts for part in _codes(code))
