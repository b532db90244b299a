"""What is trained: the model's blocks, how they take turns, and the data.

What only changes numbers, a seed, a learning rate or a weight of the loss, is *given*
to the compiled programs; what changes the programs is the task. So runs that differ in
what is given share one program, one after another or side by side.

Shapes   N seeds side by side, U updates a cycle, M minibatches an epoch, B batch size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

import cdgm
from cdgm.data import Dataset
from experiments.harness.training_flags import UpdatePlan


class TracedInputs(NamedTuple):
    """What the programs are given; under `jax.vmap`, each field with an axis N.

    Attributes:
      key: PRNG key[].
      hyper: name -> float32[], or a dict of them.
    """

    key: jax.Array
    hyper: dict[str, Any]


class Task(NamedTuple):
    """What is trained, and on what.

    Attributes:
      init: key -> params.
      descent: hyper -> the blocks.
      order: how they take turns.
      images: float32[images, ...], the training data.
      prepare: (float32[B, ...], key) -> what the losses are given.
      evaluate: (params, hyper) -> name -> float[].
      draw: (folder, params) -> None, pictures of what was trained.
      batch_size: B.
      fresh: whether every update has a minibatch of its own.
    """

    init: Callable[[jax.Array], Any]
    descent: Callable[[dict[str, Any]], cdgm.Descent]
    order: UpdatePlan
    images: jax.Array
    prepare: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[Any, dict[str, Any]], dict[str, jax.Array]]
    draw: Callable[[Path, Any], None]
    batch_size: int
    fresh: bool

    @property
    def blocks(self) -> tuple[str, ...]:
        """Their names."""
        return self.order.blocks

    @property
    def minibatches_per_epoch(self) -> int:
        """M; the images left over wait for another epoch's order."""
        return len(self.images) // self.batch_size

    @property
    def minibatches_per_cycle(self) -> int:
        """U with fresh minibatches, otherwise one."""
        return len(self.order.updates) if self.fresh else 1


class Experiment(NamedTuple):
    """How the flags of a command make a task, and what it is given.

    Attributes:
      name: of the module.
      metrics: names of what the task evaluates.
      define_flags: adds the flags.
      traced: flags -> names of those that are given.
      hyper: flags -> what is given beside the key; raises `SettingError` for any flag
        that does not fit the others.
      task: (flags, data) -> the task.
    """

    name: str
    metrics: tuple[str, ...]
    define_flags: Callable[[flags.FlagValues], None]
    traced: Callable[[flags.FlagValues], tuple[str, ...]]
    hyper: Callable[[flags.FlagValues], dict[str, Any]]
    task: Callable[[flags.FlagValues, Dataset], Task]

    def traced_inputs(self, values: flags.FlagValues) -> TracedInputs:
        """Make what the seeds of a run are given, N = `--seeds`.

        Raises:
          SettingError: flags do not go together.
        """
        keys = jax.vmap(jax.random.key)(values.seed + jnp.arange(values.seeds))
        return TracedInputs(keys, jax.tree.map(
            lambda value: jnp.full(values.seeds, value, jnp.float32),
            self.hyper(values)))
