"""Loops: the FLOPs that XLA leaves out, for it counts the body of a loop once.

    FLOPs = XLA's count + sum over loops of max(trips - 1, 0) x FLOPs(body)

The trips are read off the program: a scan says its length, and a `fori_loop` counts
from one known integer to another, which are followed through the scalar arithmetic that
leads to them. Where they depend on data, as in a search, the body is left at one trip.
A body is counted from its equations: 2 m n k for a product of matrices, one for each
element that any other operation gives or sums up. Equations of which nothing is used do
not count, for XLA drops them: in the loop of a backward pass, what a layer returned.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.interpreters import partial_eval

# They move numbers and compute none.
_FREE = frozenset({
    'bitcast_convert_type', 'broadcast_in_dim', 'concatenate', 'convert_element_type',
    'copy', 'dynamic_slice', 'dynamic_update_slice', 'gather', 'iota', 'pad', 'reshape',
    'rev', 'scatter', 'select_n', 'slice', 'squeeze', 'stop_gradient', 'transpose'})


def repeated_flops(closed: ClosedJaxpr, least: int = 0) -> float:
    """FLOPs of all trips of loops but the first of each.

    Args:
      closed: the program.
      least: 0, or -1 for a program in which XLA cannot know that a loop has no trips,
        and counts one.
    """
    return _count(closed.jaxpr, closed.consts, [None] * len(closed.jaxpr.invars),
                  least)[1]


def _count(jaxpr: Jaxpr, consts: Sequence[Any], values: Sequence[Any], least: int
           ) -> tuple[float, float]:
    """FLOPs of a program: (all of them, those of repeated trips).

    `values` are its inputs where they are known integers, else None.
    """
    known: dict[Any, Any] = {}
    jaxpr = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars),
                                   instantiate=True)[0]

    def read(atom):
        return _scalar(atom.val) if isinstance(atom, Literal) else known.get(atom)

    known.update(zip(jaxpr.constvars, map(_scalar, consts)))
    known.update(zip(jaxpr.invars, values))
    total = repeated = 0.
    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        for inner, trips, arguments in _inside(eqn, given):
            all_of, again = _count(inner.jaxpr, inner.consts, arguments, least)
            total += trips * all_of
            # A loop of no trips XLA leaves out, and counts none.
            repeated += again + max(trips - 1, least) * all_of
        total += _flops(eqn)
        if len(eqn.outvars) == 1:
            known[eqn.outvars[0]] = _evaluate(eqn, given)
    return total, repeated


def _scalar(value) -> Any:
    """A known integer or truth value, or None."""
    if isinstance(value, jax.core.Tracer) or np.shape(value) != () or (
            jax.dtypes.issubdtype(jax.numpy.result_type(value), jax.dtypes.extended)):
        return None
    array = np.asarray(value)
    return array[()] if array.dtype.kind in 'iub' else None


def _evaluate(eqn: Any, given: Sequence[Any]) -> Any:
    """Result of scalar arithmetic with known integers, or None."""
    if any(value is None for value in given) or _is_call(eqn.params) or (
            eqn.primitive.multiple_results or not given):
        return None
    with jax.ensure_compile_time_eval():
        return _scalar(eqn.primitive.bind(
            *given, **eqn.primitive.get_bind_params(eqn.params)))


def _is_call(params: Mapping[str, Any]) -> bool:
    return any(isinstance(leaf, ClosedJaxpr | Jaxpr) for leaf in jax.tree.leaves(
        list(params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)))


def _inside(eqn: Any, given: Sequence[Any]
            ) -> list[tuple[ClosedJaxpr, float, Sequence[Any]]]:
    """Programs in an equation, how often each runs, and its inputs as far as known."""
    params, name = eqn.params, eqn.primitive.name
    if name == 'scan':
        body = params['jaxpr']
        # jax 0.12 says how the inputs divide, and no longer how many are constants.
        consts = params['num_consts'] if 'num_consts' in params else len(
            list(params['ft_in'].unpack()[0]))
        inputs = [*given[:consts], *[None] * (len(body.jaxpr.invars) - consts)]
        return [(body, params['length'], inputs)]
    if name == 'while':
        skip = params['cond_nconsts']
        stop = skip + params['body_nconsts']
        trips = _trips(params['cond_jaxpr'], given[:skip], given[stop:])
        return [(params['body_jaxpr'], trips,
                 [*given[skip:stop], *[None] * (len(given) - stop)])]
    if name == 'cond':  # the dearest branch
        def cost(branch):
            return _count(branch.jaxpr, branch.consts, given[1:], 0)[0]

        return [(max(params['branches'], key=cost), 1., given[1:])]
    inner = [leaf for leaf in params.values() if isinstance(leaf, ClosedJaxpr | Jaxpr)]
    return [(leaf if isinstance(leaf, ClosedJaxpr) else ClosedJaxpr(leaf, ()), 1.,
             given if len(given) == len(getattr(leaf, 'jaxpr', leaf).invars) else
             [None] * len(getattr(leaf, 'jaxpr', leaf).invars)) for leaf in inner[:1]]


def _trips(cond: ClosedJaxpr, consts: Sequence[Any], carry: Sequence[Any]) -> float:
    """Trips of a loop that counts up to a known integer; 1 for any other."""
    eqns = cond.jaxpr.eqns
    if len(eqns) != 1 or eqns[0].primitive.name != 'lt':
        return 1.
    known = dict(zip(cond.jaxpr.invars, [*consts, *carry]))
    start, stop = (_scalar(atom.val) if isinstance(atom, Literal) else known.get(atom)
                   for atom in eqns[0].invars)
    return 1. if start is None or stop is None else float(max(stop - start, 0))


def _flops(eqn: Any) -> float:
    """FLOPs of an equation that holds no program."""
    name = eqn.primitive.name
    if name in _FREE or _is_call(eqn.params):
        return 0.
    sizes = [math.prod(var.aval.shape) for var in eqn.outvars
             if hasattr(var.aval, 'shape')]
    if name == 'dot_general':
        (contracted, _), _ = eqn.params['dimension_numbers']
        shape = eqn.invars[0].aval.shape
        return 2. * sum(sizes) * math.prod(shape[axis] for axis in contracted)
    if name == 'conv_general_dilated':
        kernel = eqn.invars[1].aval.shape
        features = eqn.params['dimension_numbers'].rhs_spec[0]
        return 2. * sum(sizes) * math.prod(kernel) / kernel[features]
    if name.startswith('reduce_') or name in ('argmax', 'argmin', 'cumsum'):
        return float(math.prod(eqn.invars[0].aval.shape))
    return float(sum(sizes))
