"""Measure programs side by side, and write down what was measured where.

    time of a program = median over rounds; each round runs every program once, in turn

so that whatever else the machine does meets all of them alike, and ratios are of one
run. Beside the times stands the rate of a plain matrix product, measured in the same
rounds, as the machine's own limit. FLOPs and bytes are XLA's counts (a loop's body is
counted once, so they are given for programs without loops).

Units    milliseconds a step, MFLOP a step, MB.
"""

import argparse
import gc
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RESULTS = Path(__file__).parent / 'results'
MATMUL = 'matrix product 1024'

# Above this share of the cores' time, others disturb the measurement.
_BUSY = 0.2


class Program(NamedTuple):
    """A program to time.

    Attributes:
      run: runs some steps and waits for the result.
      steps: how many.
      flops: of one step; None where nobody counts them.
      megabytes: of memory beside its arguments, while it runs; None likewise.
    """

    run: Callable[[], Any]
    steps: int = 1
    flops: float | None = None
    megabytes: float | None = None


class Bar(NamedTuple):
    """A ratio that must not exceed a limit: `program` against `reference`."""

    what: str
    ratio: float
    limit: float


def arguments(about: str | None) -> argparse.Namespace:
    """The command line that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true',
                        help='few rounds, nothing saved: only to see that it runs')
    parser.add_argument('--rounds', type=int, default=25,
                        help='times each program runs')
    args = parser.parse_args()
    if args.quick:
        args.rounds = 2
    args.load = _busy()  # taken now: the benchmark itself is load
    return args


def cores() -> int:
    """Cores that this process may use; XLA makes as many threads."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy(seconds: float = 1.) -> float:
    """Share of the cores that others use, from 0 to 1.

    The load average would still count the benchmark before this one.
    """
    def ticks():
        # user, nice, system, idle, …: hundredths of a second since the start.
        return np.array(Path('/proc/stat').read_text().split()[1:8], float)

    if not Path('/proc/stat').exists():
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    before = ticks()
    time.sleep(seconds)
    spent = ticks() - before
    return float(1 - spent[3] / spent.sum())


def program(step: Callable[[Any], Any], state: Any, *, steps: int = 1,
            calls: int = 1, count: bool = True, donate: bool = True) -> Program:
    """A program that carries a state: state -> state.

    Args:
      step: what to compile; `steps` steps of training.
      state: where it starts; copied, for the program donates it.
      steps: how many steps one call makes.
      calls: how often it is called in a row, from a Python loop.
      count: whether XLA's count is that of all it runs (false with loops in it).
      donate: whether the state is given back.
    """
    state = jax.tree.map(jnp.copy, state)
    compiled = jax.jit(step, donate_argnums=(0,) if donate else ()).lower(
        state).compile()
    held = [state]

    def run():
        for _ in range(calls):
            held[0] = compiled(held[0])
        jax.block_until_ready(held[0])

    counted = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    return Program(run, steps * calls, counted.get('flops', 0) / steps if count else
                   None, memory.temp_size_in_bytes / 1e6 if memory else None)


def time_all(programs: dict[str, Program], rounds: int) -> dict[str, float]:
    """Milliseconds a step of each program, medians over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    names, order = list(programs), random.Random(0)
    for one in programs.values():
        one.run()  # warm up
    # BAdam collects garbage at each visit: what the compilers of others left lying in
    # this process is not its to search.
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        # A program finds the caches as the last one left them: never always the same.
        order.shuffle(names)
        for name in names:
            began = time.perf_counter()
            programs[name].run()
            times[name].append(
                (time.perf_counter() - began) * 1e3 / programs[name].steps)
    return {name: statistics.median(each) for name, each in times.items()}


def ratio(mine: Program, other: Program, rounds: int) -> float:
    """Time of one program over that of another: median of pairs, in turn first.

    For a ratio near one, which a table of many programs is too coarse for.
    """
    ratios = []
    for number in range(4 * rounds):
        times = {}
        for one in (mine, other) if number % 2 else (other, mine):
            began = time.perf_counter()
            one.run()
            times[id(one)] = time.perf_counter() - began
        ratios.append(times[id(mine)] / times[id(other)])
    return statistics.median(ratios)


def matmul_program(size: int = 1024) -> Program:
    """The machine's limit: a product of square float32 matrices."""
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size), jnp.float32)
    return Program(lambda: jax.block_until_ready(product(a, a)), 1,
                   _matmul_flops(size))


def _matmul_flops(size: int = 1024) -> float:
    return 2. * size ** 3


def measure(programs: dict[str, Program], rounds: int) -> list[dict[str, Any]]:
    """One row a program: what it took, and what share of the machine it used."""
    programs = {**programs, MATMUL: matmul_program()}
    times = time_all(programs, rounds)
    best = _matmul_flops() / times[MATMUL]
    rows = []
    for name, ms in times.items():
        flops, megabytes = programs[name].flops, programs[name].megabytes
        rows.append({'program': name, 'ms': ms, 'mflop': flops and flops / 1e6,
                     'of_matmul_rate': flops and flops / ms / best,
                     'temp_mb': megabytes})
    return rows


def milliseconds(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Time by program."""
    return {row['program']: row['ms'] for row in rows}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table; all have the columns of the first."""
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells)]
    print(f'\n{title}')
    for line in (columns, *cells):
        print('  ' + '  '.join(text.ljust(width) if i == 0 else text.rjust(width)
                               for i, (text, width) in enumerate(zip(line, widths))))
    sys.stdout.flush()


def show_bars(bars: list[Bar]) -> None:
    """Say of each limit whether it was met; one that was missed is said to be."""
    for bar in bars:
        said = 'met' if bar.ratio <= bar.limit else 'MISSED'
        print(f'  {bar.what}: {bar.ratio:.3f}, at most {bar.limit}: {said}')


def finish(name: str, tables: dict[str, list[dict[str, Any]]], bars: list[Bar],
           args: argparse.Namespace) -> None:
    """Print the tables and limits, and save them if the machine was free."""
    for title, rows in tables.items():
        show(title, rows)
    print()
    show_bars(bars)
    if args.quick:
        print('  --quick: nothing is saved, and the times mean nothing.')
    elif args.load > _BUSY:
        print(f'  Others kept {args.load:.0%} of the cores busy at the start: nothing '
              'is saved. Run again on a quiet machine.')
    else:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f'{name}.json'
        path.write_text(json.dumps(
            {'machine': machine(args), 'tables': tables,
             'bars': [bar._asdict() for bar in bars]}, indent=1) + '\n')
        print(f'  saved in {path.relative_to(RESULTS.parents[1])}')


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Where it was measured."""
    return {'device': jax.devices()[0].device_kind, 'platform': jax.default_backend(),
            'processor': platform.machine(), 'cores': os.cpu_count(),
            'load_at_start': round(args.load, 2), 'rounds': args.rounds,
            'python': platform.python_version(), 'jax': jax.__version__}


def _cell(value) -> str:
    if value is None:
        return '-'
    return f'{value:.4g}' if isinstance(value, float) else str(value)
