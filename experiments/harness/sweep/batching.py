"""The plan: which trials share a compiled program, and whether they run side by side.

Trials that differ only in what is traced (seed, learning rate, beta, a penalty) make a
*group*. A process that works on a group compiles it once, and runs its trials one after
another, or several side by side under `jax.vmap`. Which is faster depends on the model
and the machine, so it is measured; and side by side is only taken where the measured
cycles gave every trial the very bits that it has alone, so that the mode changes no
number.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments.harness import registry
from experiments.harness.cli import parse
from experiments.harness.sweep.spec import Trial
from experiments.harness.sweep.trial_id import meaning
from experiments.harness.task import Experiment, TracedInputs
from experiments.harness.train.run_batch import concatenate_inputs
from experiments.harness.train.scan_loop import Carry
from experiments.harness.train.trainer import Trainer

MODES = ('auto', 'sequential', 'vmapped')

# Trials side by side at most: wider programs take longer to compile and gain nothing.
_MAX_WIDTH = 32

# Share of the free memory that trials side by side may take.
_MEMORY_SHARE = 0.5

# Cycles are measured for about this long, one trial after another.
_PROBE_SECONDS = 0.5

# A second program is compiled where the remaining cycles take this many times longer
# than compiling it.
_COMPILE_PAYBACK = 3.


class Member(NamedTuple):
    """A trial of a group, and its flags."""

    trial: Trial
    values: flags.FlagValues


class Plan(NamedTuple):
    """How a group is run.

    Attributes:
      width: trials side by side; 1 for one after another.
      reason: why, with what was measured.
    """

    width: int
    reason: str


def read_flags(trial: Trial, *more: str) -> flags.FlagValues:
    """Parse a trial's arguments and some more."""
    return parse(registry.load(trial.experiment).define_flags,
                 [*trial.arguments, *more])


def signature(experiment: Experiment, values: flags.FlagValues) -> str:
    """Return a name of the compiled program of a run: 12 hex digits."""
    traced = experiment.traced(values)
    text = json.dumps([experiment.name, traced, meaning(values, without=traced)],
                      sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def group(trials: Sequence[Trial], more=lambda trial: ()) -> dict[str, list[Member]]:
    """Put trials that share a program together, in the order of the sweep.

    Args:
      trials: of the sweep.
      more: trial -> arguments beside its own.
    """
    groups: dict[str, list[Member]] = {}
    for trial in trials:
        values = read_flags(trial, *more(trial))
        key = signature(registry.load(trial.experiment), values)
        groups.setdefault(key, []).append(Member(trial, values))
    return groups


def make_plan(trainer: Trainer, waiting: Sequence[TracedInputs], workers: int, mode: str
              ) -> Plan:
    """Choose by measurement how to run trials that wait for their first sweep.

    Args:
      trainer: of their group.
      waiting: what they are given.
      workers: processes that share them, and the memory.
      mode: of `MODES`.
    """
    if mode == 'sequential':
        return Plan(1, 'as asked for')
    if not trainer.independent:
        return Plan(1, 'a rule chooses for all seeds of a run together')
    width = min(math.ceil(len(waiting) / workers), _MAX_WIDTH)
    if width < 2:
        return Plan(1, 'nothing waits beside it')
    began = time.perf_counter()
    bytes_of_one = _bytes(trainer, waiting[0])
    compiling = time.perf_counter() - began
    width = int(min(width, _MEMORY_SHARE * _free_bytes() / workers / bytes_of_one))
    if width < 2:
        return Plan(1, f'a trial takes {bytes_of_one / 1e6:.0f} MB')
    all_of_them = len(waiting) / workers * trainer.cycles
    pays = _COMPILE_PAYBACK * compiling / all_of_them if mode == 'auto' else 0.
    length, one = _cycles_to_measure(trainer, waiting[0], width, pays)
    left = all_of_them * one
    if one < pays:
        return Plan(1, f'{left:.1f} s are left, and another program takes about '
                    f'{compiling:.1f} s to compile')
    beside = waiting[:width]
    alone = [_run_cycles(trainer, given, length) for given in beside]
    side_by_side = _run_cycles(trainer, concatenate_inputs(beside), length)
    before = sum(seconds for seconds, _ in alone)
    said = (f'{length} cycles of {width} trials: {before:.3f} s one after another, '
            f'{side_by_side[0]:.3f} s side by side')
    if not _same(alone, side_by_side[1], len(waiting[0].key)):
        return Plan(1, f'{said}, with other bits')
    if mode == 'auto' and side_by_side[0] >= before:
        return Plan(1, said)
    return Plan(width, said)


def _cycles_to_measure(trainer: Trainer, given: TracedInputs, width: int,
                       least: float) -> tuple[int, float]:
    """Return how many cycles of `width` trials to measure, and seconds of one of one.

    Cycles of less than `least` seconds are not measured any longer.
    """
    upto = trainer.longest_call
    while True:
        seconds = _run_cycles(trainer, given, upto)[0]
        if (width * seconds > _PROBE_SECONDS or upto >= trainer.cycles
                or seconds / upto < least):
            return upto, seconds / upto
        upto = min(trainer.cycles, 4 * upto)


def _run_cycles(trainer: Trainer, given: TracedInputs, upto: int
                ) -> tuple[float, Carry]:
    """Seconds of the first cycles, and where they end."""
    carry = trainer.start(given)
    trainer.program(carry, given)
    began = time.perf_counter()
    for start in range(0, upto, trainer.longest_call):
        carry = trainer.call(carry, given, start,
                             min(start + trainer.longest_call, upto))
    return time.perf_counter() - began, carry


def _same(alone, beside, seeds: int) -> bool:
    """Return whether every trial's numbers are those of it alone, bit for bit."""
    def numbers(carry):
        return jax.tree.leaves((carry.state, carry.sums[1:]))

    return all(
        np.asarray(one).tobytes() == np.asarray(
            leaf[at * seeds:(at + 1) * seeds]).tobytes()
        for at, (_, carry) in enumerate(alone)
        for one, leaf in zip(numbers(carry), numbers(beside)))


def _bytes(trainer: Trainer, given: TracedInputs) -> float:
    """Memory that a trial's program takes beside the data."""
    program = trainer.program(trainer.start(given), given)
    analyse = getattr(program, 'memory_analysis', None)  # none under JAX_DISABLE_JIT
    needs = analyse() if analyse else None
    if needs is None:
        return 1.
    return max(needs.temp_size_in_bytes + needs.output_size_in_bytes
               + needs.argument_size_in_bytes - _size(trainer.task.examples), 1.)


def _size(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def _free_bytes() -> float:
    device = jax.devices()[0].memory_stats()
    if device and 'bytes_limit' in device:
        return device['bytes_limit'] - device['bytes_in_use']
    try:
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError):
        return math.inf


def note_plan(folder: Path, name: str, plan: Plan) -> None:
    """Append a plan to the sweep's plans.jsonl, for people to read."""
    with open(folder / 'plans.jsonl', 'a') as file:
        file.write(json.dumps({'group': name, **plan._asdict()}) + '\n')
