"""Train a task: compiled chunks, rows of metrics, checkpoints, a progress bar.

What a training computes depends on none of: the calls that a row is made of, the
checkpoints, how often it was interrupted, and which runs are trained beside it.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import hosts
from experiments.harness.runs import checkpoint, preemption, snapshots
from experiments.harness.runs.run_folder import read_rows
from experiments.harness.task import TracedInputs, Task, model_of
from experiments.harness.train.block_updates import choose_cycles
from experiments.harness.train.flops import count_costs
from experiments.harness.train.placement import Placement
from experiments.harness.train.progress import Progress
from experiments.harness.train.run_batch import RunBatch, RunHandle, TrainingProgress
from experiments.harness.train.scan_loop import Carry, chunk_of

# Rows of metrics that a run writes, about, whatever its length.
_NUM_ROWS = 100

# Share of `preempt_latency` that a call may take; the rest is to evaluate and save.
_CALL_SHARE = 0.25


class CheckpointPolicy(NamedTuple):
    """When a training saves, and how long a call may take.

    Attributes:
      checkpoint_every: seconds between checkpoints; without, there are none but on
        being asked to leave.
      latency: seconds to leave within when asked to.
    """

    checkpoint_every: float = math.inf
    latency: float = math.inf


def rows_at(lengths: Sequence[int], evaluations: int) -> dict[int, bool]:
    """Return the numbers of cycles at which a run writes a row of metrics.

    Args:
      lengths: at which the run was complete, in cycles, and is to be at last; each is
        divided as if it were the only one, so that what is written does not change when
        a run becomes longer.
      evaluations: of each length, beside the one at the start.

    Returns:
      Number of cycles, in order -> whether the row holds an evaluation.

    >>> rows_at([4], 2)
    {0: True, 1: False, 2: True, 3: False, 4: True}
    >>> list(rows_at([4, 700], 2))[:8]
    [0, 1, 2, 3, 4, 7, 14, 21]
    """
    rows = {0: True}
    for before, cycles in zip((0, *lengths), lengths):
        tests = {round(cycles * i / evaluations) for i in range(evaluations + 1)}
        written = {*range(0, cycles, math.ceil(cycles / _NUM_ROWS)), cycles, *tests}
        rows |= {at: at in tests for at in sorted(written) if at > before}
    return rows


class Trainer:
    """The programs of a task, compiled once for all runs that are given to them.

    Args:
      task: what to train.
      cycles: how long.
      evaluations: evaluations after the one at the start, evenly spaced.
      given: what one seed is given, or what that is like.
      grad_norms: whether rows have the norms of the blocks' gradients.
      placement: how what it computes lies on several devices; on one unless given.

    Attributes:
      task: what is trained.
      cycles: how long.
      longest_call: cycles in a call at most.
    """

    def __init__(self, task: Task, cycles: int, evaluations: int, given: TracedInputs,
                 grad_norms: bool = False, placement: Placement | None = None):
        self.task, self.cycles = task, cycles
        self._placement = placement
        self._examples = self._put(task.examples)
        self._evaluations = evaluations
        self.longest_call = math.ceil(cycles / _NUM_ROWS)
        self._costs = count_costs(task, given)
        self._how = choose_cycles(task, self._costs.step.tolist())
        chunk = chunk_of(task, self._how, self.longest_call, grad_norms, placement)
        self._compiled: dict[int, jax.stages.Compiled] = {}

        def first(examples, given):
            # The model state has a key of its own, derived from that of the params.
            params, model_state = jax.vmap(lambda key: (
                task.init(key), task.model_state and task.model_state(
                    jax.random.fold_in(key, 0))))(
                        jax.vmap(lambda key: jax.random.fold_in(key, 0))(given.key))
            return chunk.init(self._how.init(params, model_state, given), examples,
                              given)

        self._shardings = whole = None
        if placement is not None:
            whole = placement.replicated
            # Of one seed; the number of seeds changes no sharding.
            form = jax.eval_shape(first, task.examples, jax.tree.map(
                lambda x: x[None], given))
            self._shardings = jax.tree.map(lambda _: whole, form)._replace(
                state=placement.of_state(form.state))
        self._first = jax.jit(first, out_shardings=self._shardings)
        self._chunk = jax.jit(chunk.run, donate_argnums=0,
                              out_shardings=self._shardings)
        # One call; leaf by leaf they would take as long as a short cycle.
        self._cleared = jax.jit(partial(jax.tree.map, jnp.zeros_like),
                                out_shardings=whole)
        self._evaluate = jax.jit(lambda state, given: jax.vmap(task.evaluate)(
            *self.model(state), given.hyper), out_shardings=whole)
        snapshot = task.snapshot
        self._snapshot = None if snapshot is None else jax.jit(lambda state: snapshot(
            *jax.tree.map(lambda x: x[0], self.model(state))), out_shardings=whole)

    def _put(self, tree):
        """Put what all processes have where the programs take it from."""
        return self._placement.put(tree) if self._placement else tree

    def model(self, state) -> tuple[Any, ...]:
        """What a task's functions are given: (params,), or (params, model_state)."""
        return model_of(self._how.descent_state(state))

    @property
    def independent(self) -> bool:
        """Whether runs can be trained side by side."""
        return self._how.independent

    def start(self, given: TracedInputs) -> Carry:
        """Compute what a training starts from."""
        return self._first(self._examples, self._put(given))

    def program(self, carry: Carry, given: TracedInputs
                ) -> jax.stages.Compiled | Callable[..., Carry]:
        """Compile the cycles for as many seeds, unless that is done already."""
        if getattr(jax.config, 'jax_disable_jit'):  # jax declares no such name
            return self._chunk  # step by step, for debugging
        seeds = len(given.key)
        if seeds not in self._compiled:
            self._compiled[seeds] = self._chunk.lower(
                carry, self._examples, self._put(given), *np.zeros(2, np.int32)
            ).compile()
        return self._compiled[seeds]

    def call(self, carry: Carry, given: TracedInputs, start: int, stop: int) -> Carry:
        """Make the cycles from one number to another, and wait for them."""
        return jax.block_until_ready(self.program(carry, given)(
            carry, self._examples, self._put(given), np.int32(start), np.int32(stop)))

    def train(self, runs: Sequence[RunHandle], policy: CheckpointPolicy,
              progress: Progress) -> list[Any]:
        """Train runs side by side; a single one goes on where its folder is.

        Args:
          runs: to train; more than one only where seeds are `independent`.
          policy: when to save.
          progress: what shows it.

        Returns:
          For each run what `model` gives of its end, with a leading axis S, or the
          `DivergedError` that ended it; the rows before it are written.

        Raises:
          PreemptedError: the process was asked to leave; what it reached is saved.
          StorageError: no checkpoint can be written.
          SettingError: the checkpoints are those of other code.
        """
        runs = [run._replace(given=self._put(run.given)) for run in runs]
        group = RunBatch(self.task, runs)
        given = group.given
        carry, reached = self._resume(runs[0]) if len(runs) == 1 else (
            self.start(given), TrainingProgress())
        rows = rows_at((*runs[0].folder.lengths, self.cycles), self._evaluations)
        stops = list(rows)
        if not reached.rows:
            group.add_rows({'cycle': 0, 'epoch': 0.0, 'seconds': 0.0, 'gflop': 0.0},
                           tests=self._test(group, carry, 0))
            reached = reached._replace(rows=1)
        group.note(reached)
        saved, seconds = time.monotonic(), math.inf
        if reached.rows > 1:
            progress.advance(stops[reached.rows - 1],
                             read_rows(runs[0].folder.path)[-1])
        progress.say('compiling')
        # Ahead of time, so that the first chunk's rate is that of the others.
        self.program(carry, given)
        for start, stop in list(zip(stops, stops[1:]))[reached.rows - 1:]:
            while reached.cycle < stop and not group.is_lost:
                saved = group.keep(carry, reached, saved, policy.checkpoint_every)
                preemption.mark_dirty()
                upto = hosts.agree(_end_of_call(reached.cycle, stop, seconds,
                                                policy.latency))
                began = time.perf_counter()
                carry = self.call(carry, given, reached.cycle, upto)
                took = time.perf_counter() - began
                seconds = took / (upto - reached.cycle)
                reached = reached._replace(
                    cycle=upto, seconds=reached.seconds + took / len(runs))
                group.drop_bad(carry.bad)
            if group.is_lost:
                break
            saved = group.keep(carry, reached, saved, policy.checkpoint_every)
            reached = reached._replace(
                rows=reached.rows + 1,
                flops=reached.flops + self._costs.spent(
                    stop - start, np.asarray(carry.sums.count)))
            row = {'cycle': stop, 'epoch': stop * self.task.minibatches_per_cycle
                   / self.task.minibatches_per_epoch,
                   'seconds': round(reached.seconds, 4), 'gflop': reached.flops / 1e9}
            tests = self._test(group, carry, stop) if rows[stop] else None
            shown = group.add_rows(row, carry, tests)
            carry = carry._replace(sums=self._cleared(carry.sums))
            progress.advance(stop - start, shown)
        models = group.split(hosts.fetch(self.model(carry.state)))
        group.drop_unless_finite([params for params, *_ in models])
        if math.isfinite(policy.checkpoint_every) and not group.is_lost:
            group.save(carry, reached)
        return [error or mine for error, mine in zip(group.errors, models)]

    def _test(self, group: RunBatch, carry: Carry, cycle: int) -> list[Any]:
        """Evaluate each run by the program that it has alone, to the same bits."""
        states = group.split(carry.state)
        for state, run in zip(states, group.runs):
            if self._snapshot is not None:
                snapshots.write(run.folder.path, cycle, self._snapshot(state))
        return [self._evaluate(state, run.given)
                for state, run in zip(states, group.runs)]

    def _resume(self, run: RunHandle) -> tuple[Carry, TrainingProgress]:
        """Where a run is, or its start, with the rows of metrics that belong to it."""
        folder = run.folder

        def check(facts):
            if not folder.has_rows(facts['rows']):
                raise checkpoint.DamagedError('metrics.jsonl is not what it was')

        form = jax.eval_shape(self._first, self._examples, run.given)
        if self._placement is not None:
            form = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding), form, self._shardings)
        found = checkpoint.load(folder.checkpoints, form, check)
        if found:
            carry = jax.device_put(found.state, self._shardings)
            reached, rows = TrainingProgress(
                **found.facts['reached']), found.facts['rows']
        else:
            carry, reached, rows = self.start(run.given), TrainingProgress(), None
        if folder.cut_rows(rows):
            print(f'resuming at cycle {reached.cycle}', flush=True)
        folder.begin(reached.cycle)
        return carry, reached


def _end_of_call(cycle: int, stop: int, seconds: float, latency: float) -> int:
    """The cycle up to which a call may go, given the seconds that a cycle took."""
    if math.isinf(latency):
        return stop
    return min(stop, cycle + max(1, int(_CALL_SHARE * latency / seconds)))
