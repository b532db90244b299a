"""What the losses make of their inputs: equal shapes, and at least float32.

A loss in bfloat16 has 8 significant bits, so that 100 nats would be known to a quarter
of a nat. Inputs are widened before the first sum; float64 stays float64.
"""

import jax
import jax.numpy as jnp


def widen(array) -> jax.Array:
    """Give an array of at least float32.

    >>> widen(jnp.ones(2, jnp.bfloat16)).dtype, widen(jnp.array([True])).dtype
    (dtype('float32'), dtype('float32'))
    """
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def check_equal_shapes(**arrays) -> None:
    """Raise a ValueError unless the arrays have one shape; it could be broadcast."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        seen = ', '.join(f'{name} {shape}' for name, shape in shapes.items())
        raise ValueError(f'shapes differ: {seen}; give arrays of one shape.')
