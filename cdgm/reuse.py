"""Reuse: compute once what the active block cannot change.

    f(x) = g(x, c),    c = everything that does not depend on x

A loss is a program, and its stages are the program's own equations: encode, sample,
decode, or one layer after another. While a block is visited on one minibatch, every
equation that no active leaf enters gives the same result at each step.
`hoist_invariants` runs those once and leaves the others, so K steps cost one frozen
prefix and K suffixes. In a chain of L equal layers a step of layer i (0-based) then
costs 2 (L - i) products of a layer instead of 2 L - i. Nothing need be declared, so
nothing can be declared wrongly.

XLA moves such work out of a loop too, on some devices; here it is moved on all of them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

# Cheaper to do again, inside a fusion, than to keep: the result is larger than what it
# is made of.
_REMADE = frozenset({'broadcast_in_dim', 'iota'})


def hoist_invariants(function: Callable[..., Any], *arguments: Any
                     ) -> Callable[..., Any]:
    """Compute once whatever of a function does not depend on its arguments.

    Args:
      function: a traceable function; what it closes over is what stays the same.
      *arguments: pytrees of arrays such as it will be called with; values are not used.

    Returns:
      A function of the same arguments and the same result, to be called and
      differentiated in the trace in which it was made, as often as needed. Work inside
      a loop or a function with a derivative rule of its own is moved as a whole or not
      at all; an effect, such as a print, stays where it is.

    >>> import jax.numpy as jnp
    >>> weights = jnp.eye(3)
    >>> loss = hoist_invariants(
    ...     lambda x: jnp.sum(jnp.sin(weights @ weights) @ x), jnp.zeros(3))
    >>> jax.make_jaxpr(loss)(jnp.zeros(3)).jaxpr.eqns[0].primitive.name  # no sine
    'dot_general'
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    # Traced again, with calls opened up: a call may be fixed in part.
    closed = jax.make_jaxpr(lambda *values: _call(closed, values))(
        *jax.tree.leaves(arguments))
    jaxpr = closed.jaxpr
    fixed, rest = _divide(jaxpr)
    known = dict(zip(jaxpr.constvars, closed.consts))
    _run(fixed, known)
    used = {var for eqn in rest for var in _vars(eqn.invars)} | _vars(jaxpr.outvars)
    known = {var: value for var, value in known.items() if var in used}

    def run(*arguments):
        leaves = jax.tree.leaves(arguments)
        env = {**known, **dict(zip(jaxpr.invars, leaves, strict=True))}
        _run(rest, env)
        return jax.tree.unflatten(jax.tree.structure(shape),
                                  [_read(atom, env) for atom in jaxpr.outvars])

    return run


def _divide(jaxpr: Jaxpr) -> tuple[list[JaxprEqn], list[JaxprEqn]]:
    """Equations that do not depend on the inputs, and those to run at each call."""
    varying, fixed, rest = set(jaxpr.invars), [], []
    for eqn in jaxpr.eqns:
        if eqn.effects or varying & _vars(eqn.invars):
            varying.update(eqn.outvars)
        else:
            fixed.append(eqn)
    needed = _vars(jaxpr.outvars)
    for eqn in reversed(jaxpr.eqns):
        again = varying.issuperset(eqn.outvars) or eqn.primitive.name in _REMADE
        if eqn.effects or again and needed & set(eqn.outvars):
            rest.append(eqn)
            needed |= _vars(eqn.invars)
    return fixed, rest[::-1]


def _call(closed, values) -> list[Any]:
    """Evaluate a closed program, the calls in it opened up."""
    jaxpr = closed.jaxpr
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *values]))
    _run(jaxpr.eqns, env)
    return [_read(atom, env) for atom in jaxpr.outvars]


def _run(eqns: Iterable[JaxprEqn], env: dict[Var, Any]) -> None:
    """Evaluate equations in an environment, which receives their results."""
    for eqn in eqns:
        values = [_read(atom, env) for atom in eqn.invars]
        if eqn.primitive.name == 'jit':
            results = _call(eqn.params['jaxpr'], values)
        else:
            with eqn.ctx.manager:
                results = eqn.primitive.bind(
                    *values, **eqn.primitive.get_bind_params(eqn.params))
        if not (eqn.primitive.multiple_results or eqn.primitive.name == 'jit'):
            results = [results]
        env.update(zip(eqn.outvars, results))


def _read(atom, env):
    return atom.val if isinstance(atom, Literal) else env[atom]


def _vars(atoms) -> set[Var]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}
