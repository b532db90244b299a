"""Peak bytes of a cycle over a transformer's layers, as the system sees it.

    peak = bytes of the arrays at rest + rise of the process's resident set over its own
           at rest, while a visit of each layer runs, after such a cycle to warm up

Neither PyTorch nor XLA tells what its allocator held at most on a CPU; this is the same
measure for both. Each is measured in a process of its own, whose large allocations go
back to the system when they are freed, or the rise would be hidden in what was freed
before. On Linux alone: elsewhere nothing is measured.

    python -m benchmarks.resident WAY DEPTH     prints the megabytes
"""

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import problems
from cdgm import layers

WAYS = ('cdgm', 'cdgm, 16 bits at rest', 'BAdam', 'BAdam, bfloat16')
SIZES = {'width': 256, 'context': 64, 'vocabulary': 65}
BATCH, VISIT = 8, 5
_STATUS, _REFERENCES = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def measured(way: str, depth: int) -> float | None:
    """Megabytes at the peak of a cycle, from a process of its own; None if not known.

    Raises:
      RuntimeError: the process failed, with what it said.
    """
    environment = os.environ | {
        # A free allocation of this size or more is no longer resident.
        'MALLOC_MMAP_THRESHOLD_': '65536', 'JAX_PLATFORMS': 'cpu',
        'CUDA_VISIBLE_DEVICES': ''}
    told = subprocess.run(
        [sys.executable, '-m', 'benchmarks.resident', way, str(depth)],
        env=environment, check=False, text=True, capture_output=True)
    if told.returncode:
        raise RuntimeError(f'{way}: {told.stderr}')
    last = told.stdout.split()[-1]
    return None if last == 'None' else float(last)


def peak(run: Callable[[], object], held: Callable[[], int]) -> int | None:
    """Bytes at the peak of a program that was warmed up.

    Args:
      run: the program.
      held: bytes of the arrays that there are, asked before it runs.
    """
    if not _REFERENCES.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _REFERENCES.write_text('5')  # the high-water mark begins anew
    before = _resident('VmRSS')
    at_rest = held()
    run()
    return at_rest + _resident('VmHWM') - before


def _resident(name: str) -> int:
    """Bytes, of a line as in 'VmHWM:   1024 kB'."""
    line, = (line for line in _STATUS.read_text().splitlines()
             if line.startswith(name))
    return 1024 * int(line.split()[1])


def batches(context: int, vocabulary: int) -> np.ndarray:
    """A visit's minibatches, int32[K, B, T + 1]."""
    return np.random.default_rng(0).integers(
        vocabulary, size=(VISIT, BATCH, context + 1), dtype=np.int32)


def own_cycle(depth: int, half: bool, **sizes: int) -> Callable[[], object]:
    """A visit of each layer in turn, in cdgm."""
    ways = problems.transformer(depth, **sizes)
    params = jax.jit(ways.model.init)(jax.random.key(0))
    if half:
        params['layers'] = layers.encode(params['layers'])
    tokens = jnp.asarray(batches(sizes['context'], sizes['vocabulary']))
    keys = jax.random.split(jax.random.key(1), VISIT)
    visit = jax.jit(lambda state, number: ways.by_layers.visit(
        state, tokens, keys, ('layers', number))[0], donate_argnums=0)
    held = [ways.by_layers.init(params)]

    def run():
        for number in range(depth):
            held[0] = jax.block_until_ready(visit(held[0], jnp.int32(number)))

    return run


def badam_cycle(depth: int, half: bool, **sizes: int) -> Callable[[], object]:
    """The same by BAdam."""
    import torch
    from benchmarks import badam_transformer
    net = badam_transformer.Transformer(depth, **sizes)
    net = net.to(torch.bfloat16) if half else net
    return badam_transformer.steps(
        net, badam_transformer.optimiser(net, VISIT),
        batches(sizes['context'], sizes['vocabulary']), VISIT * depth)


def _held_by_jax() -> int:
    return sum(x.nbytes for x in jax.live_arrays())


def megabytes(way: str, depth: int, **sizes: int) -> float | None:
    """Megabytes at the peak of one way, in this process."""
    half = way in (WAYS[1], WAYS[3])
    held: Callable[[], int] = _held_by_jax
    if way.startswith('BAdam'):
        from benchmarks.badam_transformer import held
    run = (badam_cycle if way.startswith('BAdam') else own_cycle)(depth, half, **sizes)
    run()
    found = peak(run, held)
    return found and found / 1e6


if __name__ == '__main__':
    print(megabytes(sys.argv[1], int(sys.argv[2]), **SIZES))
