"""The flags that every training experiment has, and what they mean together."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from absl import flags

from cdgm.data import DATASETS
from experiments.harness import block_choice
from experiments.harness.errors import SettingError
from experiments.harness.orders import JOINT_MODES, parse_order, parse_per_block

# Flags that say how a run behaves, and a sweep's command hands to all its runs.
OPERATIONAL_FLAGS = ('data_dir', 'checkpoint_every', 'preempt_latency', 'tensorboard',
                     'mesh')

# Flags that leave the numbers as they are, but for the last bits.
NON_IDENTITY_FLAGS = ('run_dir', *OPERATIONAL_FLAGS)

# Flags that say how long a run is, and that may grow when it is complete.
LENGTH_FLAGS = ('epochs', 'cycles')


def define_operational_flags(values: flags.FlagValues) -> None:
    """Define the flags of `OPERATIONAL_FLAGS`."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_string('data_dir', None, 'Folder that holds the data files already '
                        '(or CDGM_DATA_DIR); otherwise they are downloaded.', **own)
    flags.DEFINE_float('checkpoint_every', 60., 'Seconds from one checkpoint to the '
                       'next.', lower_bound=0., **own)
    flags.DEFINE_float('preempt_latency', 5., 'Seconds to save and leave within, when '
                       'asked to by TERM, INT, USR1 or USR2.', lower_bound=0.1, **own)
    flags.DEFINE_bool('tensorboard', False, 'Write event files for TensorBoard, too, '
                      'in the folder of a run.', **own)
    flags.DEFINE_string('mesh', None, 'Train on all devices, of all hosts: '
                        'data=2,model=4 splits a minibatch in 2 and the state in 8.',
                        **own)


def operational_arguments(values: flags.FlagValues) -> list[str]:
    """The flags of `OPERATIONAL_FLAGS`, as on the command line of a run."""
    return [f'--{name}={values[name].value}' for name in OPERATIONAL_FLAGS
            if values[name].value is not None]


def define_flags(values: flags.FlagValues, *, order: str | None,
                 learning_rate: str | None, batch_size: int, epochs: float,
                 fresh_minibatches: bool | None,
                 dataset: str = 'digits') -> None:
    """Define the common flags; the arguments are the defaults that differ.

    None is for an experiment that has defaults of its own for what was not given.
    """
    define_operational_flags(values)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('dataset', dataset, sorted(DATASETS), 'Data to model.', **own)
    flags.DEFINE_string('order', order, 'Block updates of a cycle, as in '
                        'decoder,encoder or discriminator*5,generator; joint or '
                        'simultaneous moves everything at once.', **own)
    flags.DEFINE_enum('schedule', 'cyclic', ['cyclic', *block_choice.NAMES],
                      'cyclic: the order as it stands; shuffled: a fresh permutation '
                      'of its blocks every cycle; uniform: blocks drawn by their '
                      'share of the order; the others are rules, which choose by what '
                      'the last steps did, as many updates a cycle.', **own)
    flags.DEFINE_integer('refresh', 10, 'Steps from one measurement of a rule to the '
                         'next; its window or patience.', lower_bound=1, **own)
    flags.DEFINE_bool('fresh_minibatches', fresh_minibatches, 'A minibatch and noise '
                      'of its own for every update, not one for a cycle.', **own)
    flags.DEFINE_string('learning_rate', learning_rate, 'Adam step size, as in 1e-3 or '
                        'decoder=1e-3,encoder=5e-4.', **own)
    flags.DEFINE_integer('batch_size', batch_size, 'Examples in a minibatch.',
                         lower_bound=1, **own)
    flags.DEFINE_float('epochs', epochs, 'Length of training: an epoch is as many '
                       'cycles as there are minibatches in the data.',
                       lower_bound=0., **own)
    flags.DEFINE_integer('cycles', None, 'Length of training in cycles, in place of '
                         '--epochs.', lower_bound=1, **own)
    flags.DEFINE_integer('evaluations', 20, 'Evaluations in the course of training.',
                         lower_bound=1, **own)
    # None, not False: a trial keeps the name that it had without the flag.
    flags.DEFINE_bool('grad_norms', None, 'Report the mean norm of each block\'s '
                      'gradient, too; 4 to 8 % of a small step.', **own)
    flags.DEFINE_integer('seeds', 1, 'Runs that differ only in their seed, side by '
                         'side in one program.', lower_bound=1, **own)
    flags.DEFINE_integer('seed', 0, 'The first seed.', lower_bound=0,
                         upper_bound=2 ** 31 - 1, **own)
    flags.DEFINE_string('run_dir', None, 'Folder of the run; a new one under runs/ '
                        'unless given. One that was interrupted goes on; a complete '
                        'one too, where it is to be longer.', **own)


class UpdatePlan(NamedTuple):
    """How the blocks take turns.

    Attributes:
      updates: names, one an update of a cycle; ('joint',) or ('simultaneous',).
      blocks: names of all blocks that there are.
      rates: block name -> Adam step size.
      choice: of the blocks, or None where the updates stand as they are.
      visit: updates of one block in a row, which are then a cycle; its block is chosen.
    """

    updates: tuple[str, ...]
    blocks: tuple[str, ...]
    rates: dict[str, float]
    choice: block_choice.Choice | None
    visit: int | None = None

    @property
    def updates_per_cycle(self) -> int:
        """How many updates a cycle has."""
        return self.visit or len(self.updates)

    def updates_of(self, block: str, cycles: int) -> int:
        """How many updates the order gives a block; a cycle each, if it names none."""
        return cycles * max(self.updates.count(block), 1)


def read_order(values: flags.FlagValues, blocks: tuple[str, ...],
               whole: tuple[str, ...] = JOINT_MODES, exact: tuple[str, ...] = ()
               ) -> UpdatePlan:
    """Read `--order`, `--learning_rate` and `--schedule` together.

    Args:
      values: the flags.
      blocks: names of all blocks.
      whole: which of `JOINT_MODES` make sense for this model.
      exact: more blocks, which are there if the order names them, and have no rate.

    Raises:
      SettingError: they name a block that is not there, or do not go together.
    """
    updates = _parse('order', parse_order, values, (*blocks, *exact), whole)
    rated = ('joint',) if updates == ('joint',) else blocks
    rates = read_rates(values, rated)
    blocks = (*blocks, *(name for name in exact if name in updates))
    names = ('joint',) if updates == ('joint',) else blocks
    if values.schedule == 'cyclic':
        return UpdatePlan(updates, names, rates, None)
    if updates[0] in JOINT_MODES:
        raise SettingError(f'--schedule={values.schedule} chooses among blocks, and '
                           f'--order={values.order} moves all of them; name blocks.')
    visits = [updates.count(name) for name in blocks]
    return UpdatePlan(updates, names, rates,
                      block_choice.choices(visits, values.refresh)[values.schedule])


def read_rates(values: flags.FlagValues, blocks: tuple[str, ...]) -> dict[str, float]:
    """Read `--learning_rate`: block name -> step size.

    Raises:
      SettingError: a block is unknown or missing, or a rate is not > 0.
    """
    return _parse('learning_rate', parse_per_block, values, blocks)


def _parse(name: str, parser: Callable, values: flags.FlagValues, *arguments):
    try:
        return parser(values[name].value, *arguments)
    except ValueError as error:
        raise SettingError(f'--{name}: {error}') from None


def read_cycles(values: flags.FlagValues, num_examples: int) -> int:
    """Length of training in cycles.

    Raises:
      SettingError: a minibatch is larger than the data, or there is nothing to do.
    """
    if values.batch_size > num_examples:
        raise SettingError(f'--batch_size={values.batch_size} exceeds the '
                           f'{num_examples} training examples; lower it.')
    cycles = values.cycles or round(values.epochs * (num_examples // values.batch_size))
    if cycles < 1:
        raise SettingError(f'--epochs={values.epochs} is less than one cycle; raise '
                           'it, or give --cycles.')
    return cycles


def define_cosine(values: flags.FlagValues, default: bool | None) -> None:
    """Define the flag that `falling` reads."""
    flags.DEFINE_bool('cosine', default, 'Let the rates fall to zero along a cosine, '
                      'over the length of training.', flag_values=values)


def falling(values: flags.FlagValues, rate: Any, updates: int) -> Any:
    """The rate, which with --cosine is a schedule of optax that falls to zero.

    Args:
      values: the flags.
      rate: to begin with; may be traced.
      updates: of the block, over the length of training.

    >>> given = flags.FlagValues()
    >>> define_cosine(given, default=True)
    >>> _ = given(['test'])
    >>> schedule = falling(given, 0.1, updates=4)
    >>> [round(float(schedule(count)), 3) for count in (0, 2, 4)]
    [0.1, 0.05, 0.0]
    """
    if not values.cosine:
        return rate
    fall = optax.cosine_decay_schedule(1., updates)
    return lambda count: rate * fall(count)


def canonical(value: Any) -> Any:
    """Write the numbers within text in one way, as in decoder=1e-3 and decoder=.001."""
    if not isinstance(value, str):
        return value
    return re.sub('[^,=]+', lambda part: _number(part[0].strip()), value)


def _number(text: str) -> str:
    try:
        return repr(float(text))
    except ValueError:
        return text
