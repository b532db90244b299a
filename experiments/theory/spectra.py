"""Spectra: a step of a descent as a linear map of all that it carries.

The floating leaves of a state, parameters and the memories of rules alike, make one
vector; a step is a map of such vectors. At an equilibrium its Jacobian M decides:
errors grow or shrink by the largest modulus of M's eigenvalues, the radius.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def jacobian(step: Callable, state):
    """The matrix of a step at a state, float[N, N]; exact for a linear map.

    Args:
      step: state -> state.
      state: the equilibrium, say.
    """
    leaves, treedef = jax.tree.flatten(state)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def floats(state):
        chosen = zip(jax.tree.leaves(state), floating)
        return ravel_pytree([leaf for leaf, is_float in chosen if is_float])

    start, unravel = floats(state)

    def vector_map(vector):
        values = iter(unravel(vector))
        mixed = [next(values) if is_float else leaf
                 for leaf, is_float in zip(leaves, floating)]
        return floats(step(jax.tree.unflatten(treedef, mixed)))[0]

    return jax.jacfwd(vector_map)(start)


def settled(state):
    """A state that has been at zero for ever: no memory is in its first step."""
    return jax.tree.map(jnp.zeros_like, state)


def eigenvalues(matrix) -> np.ndarray:
    """Eigenvalues, complex[N], the largest modulus first."""
    values = np.linalg.eigvals(np.asarray(matrix))
    return values[np.argsort(-np.abs(values), kind='stable')]


def radius(matrix) -> float:
    """The largest modulus of an eigenvalue."""
    return float(np.abs(eigenvalues(matrix)[0]))


def threshold(unstable: Callable[[float], bool], low: float, high: float) -> float:
    """Bisect for where a dynamic changes, to the last bit.

    Args:
      unstable: of a setting between the bounds; false at `low` and true at `high`, or
        the other way round.
      low, high: bounds.

    Returns:
      The setting between; NaN if both sides are alike.
    """
    below = unstable(low)
    if unstable(high) == below:
        return float('nan')
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if unstable(middle) == below else (low, middle)
    return low
