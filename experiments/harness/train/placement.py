"""Where a training lies on several devices: minibatches split, the state split.

    --mesh=data=2,model=4     a minibatch in 2 parts, the state in 4 along one axis of
                              each array and in 2 along another, as FSDP has it

Of the state an array is split along its last axis that divides, and along the next one;
seeds and layers, which are loops, stay whole. The compiler moves what a computation
needs to where it is needed (GSPMD, arXiv:2105.04663; FSDP, arXiv:1910.02054).

Shapes   N seeds, U minibatches, B examples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.harness.errors import SettingError

AXES = ('data', 'model')


class Placement(NamedTuple):
    """How arrays lie on a mesh of devices.

    Attributes:
      mesh: with the axes `AXES`, of which one may have the size 1.
    """

    mesh: Mesh

    @property
    def replicated(self) -> NamedSharding:
        """Everything on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, tree: Any) -> Any:
        """Put arrays, which every process has, on every device."""
        # On the host first: an array of one process's device cannot be sent to others'.
        return jax.tree.map(self._put, tree)

    def _put(self, x):
        if getattr(x, 'sharding', None) == self.replicated:
            return x
        if not jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.device_put(np.asarray(x), self.replicated)
        bits = jax.device_put(np.asarray(jax.random.key_data(x)), self.replicated)
        return jax.random.wrap_key_data(bits, impl=jax.random.key_impl(x))

    def of_state(self, form: Any) -> Any:
        """Shardings of a state whose arrays have a leading axis of seeds.

        >>> mesh = jax.make_mesh((1, 1), AXES, (AxisType.Auto,) * 2)
        >>> Placement(mesh).of_state(jax.ShapeDtypeStruct((1, 6, 8), 'float32')).spec
        PartitionSpec(None, 'data', 'model')
        """
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, PartitionSpec(
            *_split(leaf.shape, self.mesh.shape))), form)

    def split_minibatches(self, batches: Any) -> Any:
        """Split minibatches [N, U, B, ...] along B; for traced code."""
        return lax.with_sharding_constraint(batches, NamedSharding(
            self.mesh, PartitionSpec(None, None, 'data')))


def _split(shape: Sequence[int], sizes: dict[str, int]) -> list[str | None]:
    """The name of the axis of the mesh that each axis of an array is split along.

    >>> _split((1, 4, 128, 512), {'data': 2, 'model': 4})
    [None, None, 'data', 'model']
    >>> _split((1, 97, 128), {'data': 2, 'model': 4})
    [None, None, 'model']
    """
    names: list[str | None] = [None] * len(shape)
    # Of a vector the one axis is split; of a stack [N, L, ...] all but the layers.
    first = 1 if len(shape) < 4 else 2
    for name in reversed(AXES):
        for axis in reversed(range(first, len(shape))):
            if names[axis] is None and shape[axis] % sizes[name] == 0:
                names[axis] = name
                break
    while names and names[-1] is None:
        names.pop()
    return names


def read_mesh(text: str | None, batch_size: int) -> Placement | None:
    """Read `--mesh`; None where there is none.

    Raises:
      SettingError: it cannot be read, or divides neither devices nor minibatches.
    """
    if not text:
        return None
    given: dict[str, int] = {}
    for part in text.split(','):
        name, _, size = part.partition('=')
        if name not in AXES or not size.isdecimal() or int(size) < 1:
            raise SettingError(f'--mesh={text}: {part!r} is no axis with its size; '
                               'write it as in data=2,model=4.')
        if name in given:
            raise SettingError(f'--mesh={text} names the axis {name} twice; give it '
                               'one size.')
        given[name] = int(size)
    sizes = {name: given.get(name, 1) for name in AXES}
    wanted, there = int(np.prod(list(sizes.values()))), jax.device_count()
    if wanted != there:
        raise SettingError(f'--mesh={text} is of {wanted} devices, and there are '
                           f'{there}; give sizes whose product is {there}.')
    if batch_size % sizes['data']:
        raise SettingError(
            f'--mesh={text} splits a minibatch in {sizes["data"]}, which does not '
            f'divide --batch_size={batch_size}; give a multiple.')
    return Placement(jax.make_mesh(tuple(sizes.values()), AXES,
                                   (AxisType.Auto,) * len(AXES)))
