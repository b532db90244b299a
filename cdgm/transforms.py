"""Step policies: what a block's tx remembers, how far it steps, what it averages.

    kept         s                        the default: nobody touches it meanwhile
    reset        s <- init(x)             each visit: `cdgm.Block(..., ephemeral=True)`
    decayed      s <- rho^away s          `decay_stale_state`
    fixed step   x <- x - a u             `optax.sgd(a)`
    scheduled    x <- x - a(n) u          `optax.sgd(schedule)`
    secant step  x <- x - u / L           `scale_by_secant`, L = |dg| / |dx|
    clipped, weights decayed              `optax.clip_by_global_norm`, `optax.adamw`
    averaged     m <- d m + (1 - d) x     `average_params`, read by `averaged`

Policies are optax transformations, so they chain with any other; and since a tx sees
the leaves of its block only, so does its policy, in `cdgm.block_descent` and in
`cdgm.coordinate_descent` alike. What a tx counts is the block's own steps.

Legend   x the block's leaves, g their gradient, u an update, s the state of a tx,
         n its own steps, away the steps of the descent since its last.
Sources  Reset: Luo, Yu & Li 2024 (BAdam, arXiv:2404.02827). Secants with a bound on
         growth: Malitsky & Mishchenko 2020 (arXiv:1910.09529).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cdgm.blocks import Params, merge, node_types

# The entries of optax's states that are moments: sums or means of gradients, which
# shrink towards "no gradient seen". By name, for some releases lack some of them.
_MOMENTS = {
    'EmaState': ('ema',),
    'FactoredState': ('v_row', 'v_col', 'v'),
    'MuonState': ('mu',),
    'ScaleByAdaDeltaState': ('e_g', 'e_x'),
    'ScaleByAdamState': ('mu', 'nu'),
    'ScaleByAdanState': ('m', 'v', 'n'),
    'ScaleByAdemamixState': ('m1', 'm2', 'nu'),
    'ScaleByAmsgradState': ('mu', 'nu', 'nu_max'),
    'ScaleByBeliefState': ('mu', 'nu'),
    'ScaleByLionState': ('mu',),
    'ScaleByNovogradState': ('mu', 'nu'),
    'ScaleByRStdDevState': ('mu', 'nu'),
    'ScaleByRStdDevWithCountState': ('mu', 'nu'),
    'ScaleByRmsState': ('nu',),
    'ScaleByRmsWithCountState': ('nu',),
    'ScaleByRssState': ('sum_of_squares',),
    'ScaleBySM3State': ('mu', 'nu'),
    'ScaleBySimplifiedAdEMAMixState': ('m', 'n'),
    'SophiaState': ('mu', 'nu'),
    'TraceState': ('trace',),
}


class AwayState(NamedTuple):
    """What `decay_stale_state` carries.

    Attributes:
      inner_state: of the tx.
      last: int32[], steps the descent had taken after the block's last; -1 before it.
      count: int32[], steps the descent has taken, which only it can tell.
    """

    inner_state: Any
    last: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def decay_stale_state(tx: optax.GradientTransformation, rho: ArrayLike,
                      moments: Mapping[type, Sequence[str]] = {},
                      ) -> optax.GradientTransformationExtraArgs:
    """Let a tx forget while other blocks move: its moments shrink by rho a step.

    Between keeping the state (rho = 1) and forgetting it (rho = 0, which unlike a reset
    keeps the count of a bias correction). A block that moves at every step loses
    nothing. Only moments decay, by a list of the states of optax that have some;
    counts, injected hyperparameters, copies of parameters and dual sums do not. What
    must not decay, such as `average_params`, is chained outside.

    Args:
      tx: the tx.
      rho: floating[], 0 <= rho <= 1, may be traced.
      moments: state type -> names of its entries that are moments, for states that are
        not optax's own (named tuples).

    Raises:
      ValueError: at `init`, a state that is not known to hold moments has an array of
        the shape of a parameter (other than of a scalar one): it may be no moment.

    >>> from cdgm import Block
    >>> tx = decay_stale_state(optax.adam(1e-3), rho=0.9)
    >>> block = Block('encoder', lambda params, batch, key: (0.0, None), tx)
    """
    tx = optax.with_extra_args_support(tx)

    def init(params):
        state = tx.init(params)
        _check_moments(state, params, moments)
        return AwayState(state, jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        away = jnp.where(state.last < 0, 0, state.count - state.last)
        factor = jnp.asarray(rho, float) ** away
        inner = _scale_moments(state.inner_state, factor, moments)
        updates, inner = tx.update(updates, inner, params, **extra)
        return updates, AwayState(inner, state.count + 1, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _moments_of(part: Any, others: Mapping[type, Sequence[str]]) -> Sequence[str]:
    """Names of the entries of a state that are moments; none of another object."""
    kind = type(part)
    own = kind.__name__ if kind.__module__.startswith('optax.') else ''
    return others.get(kind, _MOMENTS.get(own, ()))


def _scale_moments(state: Any, factor, others) -> Any:
    def scale(part):
        names = _moments_of(part, others)
        return part if not names else part._replace(**{
            name: jax.tree.map(lambda s: (factor * s).astype(s.dtype),
                               getattr(part, name)) for name in names})

    return jax.tree.map(scale, state, is_leaf=lambda x: bool(_moments_of(x, others)))


def _check_moments(state: Any, params: Params, others) -> None:
    """Raise a ValueError if a state keeps of a parameter what may be no moment."""
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(params)} - {()}
    unknown = sorted(set(_holders(state, shapes, set(node_types(params)), others, '')))
    if unknown:
        raise ValueError(
            f'decay_stale_state does not know which entries of {", ".join(unknown)} '
            'are moments, and others, such as copies of parameters, must not decay. '
            'Chain it outside (as average_params), reset the state instead '
            '(Block(..., ephemeral=True)), or give moments={type: names of entries}.')


def _holders(part: Any, shapes: set, params_types: set, others, holder: str
             ) -> Iterator[str]:
    """Names of the states that hold arrays of the given shapes, no known moments."""
    if _moments_of(part, others):
        return
    if hasattr(part, '_fields') and type(part) not in params_types:
        holder = type(part).__name__
    children = jax.tree_util.default_registry.flatten_one_level(part)
    if children is None:
        if jnp.shape(part) in shapes and jnp.issubdtype(
                jnp.result_type(part), jnp.inexact):
            yield holder or 'the state'
        return
    for child in children[0]:
        yield from _holders(child, shapes, params_types, others, holder)


class GlobalScheduleState(NamedTuple):
    """What `scale_by_global_schedule` carries.

    Attributes:
      count: int32[], steps of the descent.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def scale_by_global_schedule(schedule: optax.Schedule
                             ) -> optax.GradientTransformation:
    """Scale updates by a schedule of the steps of the whole descent.

    A learning rate that falls with training falls for every block, however seldom it
    has moved; `optax.scale_by_schedule` counts the block's own steps, and starts anew
    where its state is ephemeral. Nothing is kept but the count, so riders may have it.

    Args:
      schedule: steps of the descent -> factor.

    >>> tx = scale_by_global_schedule(lambda count: 1. / (1 + count))
    >>> state = sync_global_count(tx.init(jnp.ones(())), jnp.asarray(3, jnp.int32))
    >>> updates, state = tx.update(jnp.ones(()), state)
    >>> float(updates), int(state.count)
    (0.25, 4)
    """
    def init(params):
        del params
        return GlobalScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        factor = schedule(state.count)
        return (jax.tree.map(lambda u: jnp.asarray(factor, u.dtype) * u, updates),
                GlobalScheduleState(optax.safe_increment(state.count)))

    return optax.GradientTransformation(init, update)


def sync_global_count(state: Any, count: jax.Array) -> Any:
    """Tell what counts the steps of the whole descent in the state of a tx.

    That are `decay_stale_state` and `scale_by_global_schedule`. Both faces do so when a
    block's turn comes. An extra argument of `update` would not do: optax's line
    searches refuse those that they do not know.
    """
    return jax.tree.map(lambda part: part._replace(count=count) if counts_globally(part)
                        else part, state, is_leaf=counts_globally)


def counts_globally(part: Any) -> bool:
    """Return whether a part of a state holds the steps of the whole descent."""
    return isinstance(part, AwayState | GlobalScheduleState)


class SecantState(NamedTuple):
    """What `scale_by_secant` carries: two trees of the size of the block.

    Attributes:
      step: floating[], the last step length.
      params: the block at its last step.
      grads: its gradient there.
      count: int32[], own steps.
    """

    step: jax.Array
    params: Any
    grads: Any
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def scale_by_secant(initial_step: ArrayLike, max_growth: float = 2.0
                    ) -> optax.GradientTransformationExtraArgs:
    """Step by 1 / L, the L of the secant through the block's last two points.

        L = |g - g'| / |x - x'|,    step <- min(1 / L, max_growth step')

    The guard: where L is 0, infinite or not a number, the last step length stays; a
    step never grows by more than `max_growth` at once, and may shrink at once. Within a
    visit on one minibatch L is a curvature of the loss. Between visits, g also changes
    with the other blocks and the minibatch, which makes L larger and the step shorter;
    an ephemeral block starts each visit from `initial_step` instead.
    A secant is a lower bound of the Lipschitz constant, so the loss need not fall at
    every step; Malitsky & Mishchenko relax it by 1/2, as the example does.

    Put it first, so that it sees gradients.

    Args:
      initial_step: floating[], > 0, the step before there is a secant, may be traced.
      max_growth: >= 1.

    Returns:
      A transformation; its `update` needs `params`.

    Raises:
      ValueError: `max_growth` is less than one.

    >>> tx = optax.chain(scale_by_secant(1e-3), optax.scale(-0.5))
    """
    if not max_growth >= 1:
        raise ValueError(f'max_growth is {max_growth}; a step may grow by a factor '
                         '>= 1, for it could never recover from a short one.')

    def init(params):
        # Of the dtype that a norm of these leaves has, which their widest decides.
        step = jnp.array(initial_step, optax.tree.norm(params).dtype)
        return SecantState(step, optax.tree.zeros_like(params),
                           optax.tree.zeros_like(params), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        del extra
        _check_given(params, 'scale_by_secant')
        moved = optax.tree.norm(optax.tree.sub(params, state.params))
        bent = optax.tree.norm(optax.tree.sub(updates, state.grads))
        secant = moved / bent  # 1 / L
        usable = (state.count > 0) & jnp.isfinite(secant) & (secant > 0)
        step = jnp.where(usable, jnp.minimum(secant, max_growth * state.step),
                         state.step)
        state = SecantState(step, params, updates, optax.safe_increment(state.count))
        return jax.tree.map(lambda g: (step * g).astype(g.dtype), updates), state

    return optax.GradientTransformationExtraArgs(init, update)


class AverageState(NamedTuple):
    """What `average_params` carries.

    Attributes:
      average: of the block's leaves, at least float32.
    """

    average: Any


def average_params(decay: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Keep an exponential moving average of the block, over its own steps.

        m <- decay m + (1 - decay) x,    m = x at the start

    It leaves the updates alone, and must come last in a chain to see all of them.

    Args:
      decay: floating[], 0 <= decay < 1, may be traced.

    Returns:
      A transformation; its `update` needs `params`.

    >>> tx = optax.chain(optax.adam(1e-3), average_params(0.99))
    """
    def wide(x):
        # A copy: who donates the state deletes its arrays, not those of the params.
        return jnp.array(x, jnp.promote_types(jnp.result_type(x), jnp.float32))

    def init(params):
        return AverageState(jax.tree.map(wide, params))

    def update(updates, state, params=None, **extra):
        del extra
        _check_given(params, 'average_params')
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(
            lambda m, x: (decay * m + (1 - decay) * x).astype(m.dtype),
            state.average, moved)
        return updates, AverageState(average)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_given(params, name: str) -> None:
    if params is None:
        raise ValueError(f'{name} needs the parameters, and update was called without; '
                         'call update(updates, state, params).')


def averaged(params: Params, opt_state: Any) -> Params:
    """Put the averages that blocks keep in the place of their parameters.

    Args:
      params: all parameters.
      opt_state: `DescentState.opt_state`, or the state of `cdgm.coordinate_descent`.

    Returns:
      The parameters, in their own dtypes, averaged where a block's tx has
      `average_params` and as they are elsewhere.

    Raises:
      ValueError: no block keeps an average.
    """
    def is_average(state):
        return isinstance(state, AverageState)

    states = filter(is_average, jax.tree.leaves(opt_state, is_leaf=is_average))
    averages = [state.average for state in states]
    if not averages:
        raise ValueError('no block keeps an average; end the tx of one with '
                         'average_params, and do not make the block ephemeral.')
    whole = reduce(lambda rest, average: merge(average, rest), averages, params)
    return jax.tree.map(lambda m, x: jnp.asarray(m, x.dtype), whole, params)
