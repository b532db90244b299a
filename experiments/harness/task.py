"""What is trained: the model's blocks, how they take turns, and the data.

What only changes numbers, a seed, a learning rate or a weight of the loss, is *given*
to the compiled programs; what changes the programs is the task. So runs that differ in
what is given share one program, one after another or side by side.

Shapes   N seeds side by side, U updates a cycle, M minibatches an epoch, B batch size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags

import cdgm
from cdgm.data import Dataset, load
from experiments.harness.errors import SettingError
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
      examples: the training data, a pytree of arrays with a leading axis of examples.
      prepare: (B examples, key) -> what the losses are given.
      evaluate: (params, hyper) -> name -> float[]; with a model state (params,
        model_state, hyper).
      draw: (folder, params) -> None, writes pictures, sounds and texts of what was
        trained, see `Experiment.artifacts`; with a model state (folder, params,
        model_state).
      batch_size: B.
      fresh: whether every update has a minibatch of its own.
      model_state: key -> what the losses change and nobody descends, see
        `cdgm.DescentState`; None for a model without.
      snapshot: (params) or (params, model_state) -> an array that shows what was
        trained, such as images. That of the first seed is kept at each evaluation, for
        `draw` to find by `snapshots.read`; None keeps nothing.
      signals: name -> (params, hyper) -> float[], larger being better: what a choice
        of blocks that listens to it hears of held-out data at the end of each epoch;
        with a model state (params, model_state, hyper).
      costs: where steps differ in cost, as with a lazy penalty: (share of the steps, a
        task whose steps cost that), which are counted in place of this one.
    """

    init: Callable[[jax.Array], Any]
    descent: Callable[[dict[str, Any]], cdgm.Descent]
    order: UpdatePlan
    examples: Any
    prepare: Callable[[Any, jax.Array], Any]
    evaluate: Callable[..., dict[str, jax.Array]]
    draw: Callable[..., None]
    batch_size: int
    fresh: bool
    model_state: Callable[[jax.Array], Any] | None = None
    snapshot: Callable[..., jax.Array] | None = None
    signals: Mapping[str, Callable[..., jax.Array]] = {}
    costs: Sequence[tuple[float, 'Task']] = ()

    @property
    def blocks(self) -> tuple[str, ...]:
        """Their names."""
        return self.order.blocks

    @property
    def num_examples(self) -> int:
        """How many examples there are to train on."""
        return count_examples(self.examples)

    @property
    def minibatches_per_epoch(self) -> int:
        """M; the examples left over wait for another epoch's order."""
        return self.num_examples // self.batch_size

    @property
    def signal(self) -> Callable[..., jax.Array] | None:
        """The one of the signals that the choice of blocks listens to, if any."""
        choice = self.order.choice
        return None if choice is None else self.signals.get(choice.listens)

    @property
    def updates_per_epoch(self) -> int:
        """M, or U M where the updates of a cycle share a minibatch."""
        return self.minibatches_per_epoch * (
            1 if self.fresh else self.order.updates_per_cycle)

    @property
    def minibatches_per_cycle(self) -> int:
        """U with fresh minibatches, otherwise one."""
        return self.order.updates_per_cycle if self.fresh else 1


def model_of(state: cdgm.DescentState) -> tuple[Any, ...]:
    """What a task's functions are given: (params,), or (params, model_state)."""
    return (state.params,) if state.model_state is None else (
        state.params, state.model_state)


def count_examples(examples: Any) -> int:
    """Length of the leading axis, which all arrays have.

    Raises:
      SettingError: they have several lengths, or there is none.
    """
    lengths = {len(x) for x in jax.tree.leaves(examples)}
    if len(lengths) != 1:
        raise SettingError('examples are arrays with one leading axis, and theirs have '
                           f'the lengths {sorted(lengths)}; give one a number.')
    return lengths.pop()


def check_images(data: Dataset) -> None:
    """Raise a SettingError unless the examples are images, float[N, H, W, C]."""
    forms = [jnp.shape(x) for x in jax.tree.leaves(data.train.examples)]
    if [len(form) for form in forms] != [4]:
        raise SettingError(
            f'--dataset={data.name} holds examples of the shapes '
            f'{[form[1:] for form in forms]}, and this experiment is for images; name '
            'a set of images.')


def _load(values: flags.FlagValues) -> Dataset:
    """Load the data set that the flags name."""
    return load(values.dataset, values.data_dir)


class Experiment(NamedTuple):
    """How the flags of a command make a task, and what it is given.

    Attributes:
      name: of the module.
      metrics: name of what the task evaluates -> 'lower' or 'higher', which is better.
      define_flags: adds the flags.
      traced: flags -> names of those that are given.
      hyper: flags -> what is given beside the key; raises `SettingError` for any flag
        that does not fit the others.
      task: (flags, data) -> the task.
      artifacts: file that `Task.draw` writes -> its title; the report shows a .png or
        .gif as a picture, a .wav as a player and a .txt as text. A `*` stands for
        several files.
      load: flags -> data; the set of --dataset unless given.
    """

    name: str
    metrics: Mapping[str, Literal['lower', 'higher']]
    define_flags: Callable[[flags.FlagValues], None]
    traced: Callable[[flags.FlagValues], tuple[str, ...]]
    hyper: Callable[[flags.FlagValues], dict[str, Any]]
    task: Callable[[flags.FlagValues, Dataset], Task]
    artifacts: Mapping[str, str] = {}
    load: Callable[[flags.FlagValues], Dataset] = _load

    def traced_inputs(self, values: flags.FlagValues) -> TracedInputs:
        """Make what the seeds of a run are given, N = `--seeds`.

        Raises:
          SettingError: flags do not go together.
        """
        keys = jax.vmap(jax.random.key)(values.seed + jnp.arange(values.seeds))
        return TracedInputs(keys, jax.tree.map(
            lambda value: jnp.full(values.seeds, value, jnp.float32),
            self.hyper(values)))
