"""What a program costs, by XLA's own count."""

from collections.abc import Callable

import jax


def flops_of_program(function: Callable, *arguments) -> float:
    """FLOPs of the compiled program of a function, after XLA's optimisations.

    Args:
      function: what to compile.
      *arguments: arrays, or `jax.ShapeDtypeStruct` in their place.

    Returns:
      Floating point operations of one call. The body of a loop is counted once.
    """
    compiled = jax.jit(function).lower(*arguments).compile()
    return float(compiled.cost_analysis()['flops'])
