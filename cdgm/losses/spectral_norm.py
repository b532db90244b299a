"""Spectral normalisation: every matrix of a net divided by its largest singular value.

    v = W u / |W u|,  u <- W' v / |W' v|,  sigma = v' W u,  W / sigma

One such power iteration a step follows a weight that moves slowly; the vectors u are
carried from step to step. A kernel of more axes is the matrix [everything else, last
axis]; vectors and scalars, such as biases, are left as they are. sigma is
differentiated, u and v are not. It makes each layer, and so the net, Lipschitz.

Shapes   W float[..., F], u float[F].
Sources  Miyato et al. 2018 (arXiv:1802.05957) eq. 8, algorithm 1 and eq. 12. The
         numbers are those of `flax.linen.SpectralNorm`, which wraps a layer; this is a
         function of the parameters, and fits any net.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_EPSILON = 1e-12  # as in flax: what a length is divided by, at least


def spectral_vectors(params: Any, key: jax.Array) -> tuple[jax.Array, ...]:
    """Draw where power iteration starts.

    Args:
      params: a pytree of arrays, or of their shapes and types.
      key: PRNG key.

    Returns:
      u ~ N(0, I) of each kernel, in the order of the leaves.
    """
    kernels = [leaf for leaf in jax.tree.leaves(params) if _is_kernel(leaf)]
    return tuple(jax.random.normal(jax.random.fold_in(key, index), leaf.shape[-1:],
                                   leaf.dtype)
                 for index, leaf in enumerate(kernels))


def spectral_norm(params: Any, vectors: Sequence[jax.Array], steps: int = 1
                  ) -> tuple[Any, tuple[jax.Array, ...]]:
    """Divide every kernel by its largest singular value.

    Args:
      params: a pytree of arrays.
      vectors: of `spectral_vectors`, or what the last call returned.
      steps: of power iteration.

    Returns:
      (params, vectors), the kernels divided and the vectors moved on.

    >>> params = {'kernel': jnp.diag(jnp.array([4., 1.])), 'bias': jnp.ones(2)}
    >>> vectors = spectral_vectors(params, jax.random.key(0))
    >>> divided, _ = spectral_norm(params, vectors, steps=20)
    >>> print(divided['kernel'].diagonal(), divided['bias'])
    [1.   0.25] [1. 1.]
    """
    waiting, moved = iter(vectors), []

    def divide(leaf):
        if not _is_kernel(leaf):
            return leaf
        leaf, u = _divided(leaf, next(waiting), steps)
        moved.append(u)
        return leaf

    return jax.tree.map(divide, params), tuple(moved)


def _is_kernel(leaf) -> bool:
    return len(leaf.shape) > 1


def _divided(kernel, u, steps):
    matrix = kernel.reshape(-1, kernel.shape[-1])
    for _ in range(steps):
        v = _unit(matrix @ u)
        u = _unit(v @ matrix)
    u, v = jax.lax.stop_gradient((u, v))
    sigma = v @ matrix @ u
    return kernel / jnp.where(sigma != 0, sigma, 1), u


def _unit(x):
    return x * jax.lax.rsqrt(jnp.sum(x ** 2) + _EPSILON)
