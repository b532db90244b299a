"""Train and tabulate the arms; see `experiments.modes`."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from cdgm import losses
from cdgm.data import mixtures
from experiments import modes
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.report import kept_table
from experiments.modes import drawings, table
from experiments.modes.arms import (
    NETS, ORDERS, PENALTIES, Arm, Programs, Setting, flops, judge, programs)
from experiments.modes.table import Row

REFERENCE = Arm('non_saturating', 'none', 1, '1:1')  # whose FLOPs all may spend
_FRAMES = 24  # looks at the samples during a training
_SAY_EVERY = 30.  # seconds


class Preset(NamedTuple):
    """What the flags are that are not given."""

    data: tuple[str, ...]
    losses: tuple[str, ...]
    orders: tuple[str, ...]
    penalties: tuple[str, ...]
    seeds: int
    steps: int
    equal_iterations: int
    setting: Setting = Setting()
    packings: tuple[int, ...] = (1,)


PRESETS = {
    'quick': Preset(('ring',), ('non_saturating', 'relativistic'),
                    ('simultaneous', '1:1', '5:1', 'extragradient'),
                    ('none', 'r1+r2'), 3, 1500, 500),
    'table': Preset(('ring', 'grid'),
                    ('non_saturating', 'relativistic', 'least_squares', 'hinge',
                     'wasserstein'),
                    ORDERS, ('none', 'r1', 'r1+r2'), 10, 3000, 1000),
    'best': Preset(('ring', 'grid'), ('relativistic',), ('1:1',), ('r1+r2',), 10,
                   70_000, 5000, Setting(cooling=1., learning_rate=3e-3))}


class Plan(NamedTuple):
    """All that a command asks for, flags and presets put together."""

    data: tuple[str, ...]
    arms: list[Arm]
    seeds: list[int]
    steps: int
    equal_iterations: int
    setting: Setting
    folder: Path


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment; None stands for what the preset says."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('preset', 'quick', list(PRESETS), 'What the other flags are '
                      'where they are not given.', **own)
    for name, choices, what in (
            ('data', list(mixtures.MIXTURES), 'Mixtures.'),
            ('losses', list(losses.GAN_LOSSES), 'Of the game.'),
            ('orders', list(ORDERS), 'Of the updates.'),
            ('penalties', list(PENALTIES), 'Of the discriminator.')):
        flags.DEFINE_multi_enum(name, None, choices, what, **own)
    flags.DEFINE_multi_integer('packings', None, 'Points that the discriminator is '
                               'shown at once.', lower_bound=1, **own)
    for name, what in (
            ('seeds', 'How many.'),
            ('steps', 'Iterations of the plainest arm, whose FLOPs all spend.'),
            ('equal_iterations', 'After which all are looked at, whatever they cost.')):
        flags.DEFINE_integer(name, None, what, lower_bound=1, **own)
    flags.DEFINE_integer('seed', 0, 'The first.', lower_bound=0, **own)
    flags.DEFINE_enum('nets', None, list(NETS), 'Small ones, of --width, --depth and '
                      '--latent; or those of a paper.', **own)
    for name, kind in Setting.__annotations__.items():
        if kind is int:
            flags.DEFINE_integer(name, None, 'See `arms.Setting`.', lower_bound=1,
                                 **own)
        elif kind is float:
            flags.DEFINE_float(name, None, 'See `arms.Setting`.', lower_bound=0., **own)
    flags.DEFINE_string('out_dir', None, 'Folder of table and figures; runs/modes_ and '
                        'the preset unless given.', **own)


def read_plan(values: flags.FlagValues) -> Plan:
    """Put flags and preset together.

    Raises:
      SettingError: the packing does not divide the minibatch.
    """
    preset = PRESETS[values.preset]

    def given(name, otherwise):
        return otherwise if values[name].value is None else values[name].value

    setting = Setting(**{name: given(name, value)
                         for name, value in preset.setting._asdict().items()})
    factors = [tuple(dict.fromkeys(given(name, getattr(preset, name))))
               for name in ('losses', 'penalties', 'packings', 'orders')]
    for packing in factors[2]:
        if setting.batch_size % packing:
            raise SettingError(f'a minibatch of {setting.batch_size} does not divide '
                               f'into packs of {packing}; give another --batch_size.')
    steps, seeds = given('steps', preset.steps), given('seeds', preset.seeds)
    return Plan(
        tuple(dict.fromkeys(given('data', preset.data))),
        [Arm(*each) for each in itertools.product(*factors)],
        list(range(values.seed, values.seed + seeds)), steps,
        given('equal_iterations', preset.equal_iterations), setting,
        Path(values.out_dir or f'runs/modes_{values.preset}'))


def main(values: flags.FlagValues) -> None:
    """Train what is missing, write the table as it grows, take it apart, draw."""
    plan = read_plan(values)
    file = plan.folder / 'modes.csv'
    rows = kept_table.open_table(file, Row, {
        **plan.setting._asdict(), 'steps': plan.steps,
        'equal_iterations': plan.equal_iterations})
    work = [(data, arm, seeds) for data in plan.data for arm in plan.arms
            if (seeds := table.missing_seeds(rows, data, arm, plan.seeds))]
    budgets: dict[str, float] = {}
    began = time.perf_counter()
    for number, (data, arm, seeds) in enumerate(work):
        mixture = mixtures.MIXTURES[data]()
        if data not in budgets:
            budgets[data] = plan.steps * flops(REFERENCE, plan.setting, mixture)
        fresh = train(plan, data, arm, seeds, budgets[data])
        rows += fresh
        kept_table.write_table(file, Row, rows, digits=4)
        each = (time.perf_counter() - began) / (number + 1)
        print(f'{number + 1}/{len(work)} {data} {line(fresh)}, '
              f'{each * (len(work) - number - 1) / 60:.0f} min left', flush=True)
    tell(plan, rows)


def train(plan: Plan, data: str, arm: Arm, seeds: list[int], budget: float
          ) -> list[Row]:
    """Train an arm with some seeds; gives its rows, and keeps pictures of the first.

    The rate is constant on the trunk, from which a branch goes off for each moment at
    which the arm is judged: its rate falls to zero there. So a moment's rows do not
    depend on the others.
    """
    mixture = mixtures.MIXTURES[data]()
    cost = flops(arm, plan.setting, mixture)
    iterations = max(round(budget / cost), 1)
    ours = programs(arm, plan.setting, mixture)
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    trunk, done = ours.init(keys), 0
    rows: list[Row] = []
    album = drawings.Album(mixture)
    album.look(ours, trunk, 0)
    frames = np.linspace(0, iterations, _FRAMES + 1).round().astype(int).tolist()
    moments = {'iterations': plan.equal_iterations, 'flops': iterations}
    for at, moment in sorted(moments.items(), key=lambda item: item[1]):
        turn = round(moment * (1 - plan.setting.cooling))
        for states, done in walk(ours, trunk, keys, done, turn, np.inf, frames):
            trunk = states
            if done in frames and moment <= iterations:
                album.look(ours, states, done)
        for states, stop in walk(ours, trunk, keys, turn, moment, moment, frames):
            if at == 'flops':
                album.look(ours, states, stop)
        rows += judged(data, arm, seeds, at, moment, moment * cost / 1e9,
                       ours.sample(states))
    album.save(plan.folder / 'pictures' / f'{data}_{arm.name}.npz')
    return rows


def walk(ours: Programs, states: Any, keys: jax.Array, start: int, stop: int,
         end: float, frames: list[int]) -> Iterator[tuple[Any, int]]:
    """Train from `start` to `stop`, and stop at the frames between."""
    said = time.perf_counter()
    for moment in sorted({*(frame for frame in frames if start < frame < stop), stop}):
        states = ours.advance(states, keys, start, moment, float(end))
        jax.block_until_ready(states)
        start = moment
        if time.perf_counter() - said > _SAY_EVERY:
            said = time.perf_counter()
            print(f'  after {moment} of {frames[-1]} iterations', flush=True)
        yield states, moment


def judged(data: str, arm: Arm, seeds: list[int], at: str, iterations: int,
           gflop: float, points: jax.Array) -> Iterator[Row]:
    """The rows of one moment."""
    mixture = mixtures.MIXTURES[data]()
    for generator, samples in zip(('last', 'average'), points):
        scores = jax.tree.map(np.asarray, judge(samples, mixture.centres, mixture.std))
        for index, seed in enumerate(seeds):
            captured, *others = (float(score[index]) for score in scores)
            yield Row(data, *arm, seed, at, iterations, gflop, generator, int(captured),
                      *others)


def line(rows: list[Row]) -> str:
    """An arm in words: the average of its generators, at equal FLOPs."""
    mine = table.select(rows, at='flops', generator='average')
    modes_, quality, divergence = np.mean(
        [[row.modes, row.high_quality, row.reverse_kl] for row in mine], axis=0)
    return (f'{mine[0].arm.name}: {modes_:.1f} modes, {quality:.1%} of high quality, '
            f'reverse KL {divergence:.2f}, {mine[0].iterations} iterations')


def tell(plan: Plan, rows: list[Row]) -> None:
    """Print the tables and what explains them, write that, and draw."""
    place = {arm: index for index, arm in enumerate(plan.arms)}  # not the file's
    rows = sorted((row for row in rows if row.data in plan.data and row.arm in place
                   and row.seed in plan.seeds), key=lambda row: place[row.arm])
    told: list[str] = []
    for data in plan.data:
        number = len(mixtures.MIXTURES[data]().centres)
        for at, generator in itertools.product(('flops', 'iterations'),
                                               ('average', 'last')):
            mine = table.select(rows, data=data, at=at, generator=generator)
            told += [f'{data}, at equal {at}, {generator} generator, '
                     f'{len(plan.seeds)} seeds', *table.summary(mine, number)]
            for packing in dict.fromkeys(arm.packing for arm in plan.arms):
                packed = table.select(mine, packing=packing)
                if len(plan.seeds) > 1 and len({row.arm for row in packed}) > 1:
                    for metric in ('modes', 'high_quality', 'reverse_kl'):
                        told += table.report(packed, metric)
            told.append('')
    (plan.folder / 'variance.txt').write_text('\n'.join(told))
    print('\n'.join(told))
    drawings.draw(plan.folder, rows)
    print(f'wrote {plan.folder}: modes.csv, variance.txt and figures')


if __name__ == '__main__':
    cli.run(define_flags, main, modes.__doc__)
