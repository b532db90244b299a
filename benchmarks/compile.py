"""Compile time: many blocks, alike layers, and what the persistent cache saves.

    python -m benchmarks.compile [--quick]

`named` compiles one program a layer, `traced` one `switch` over all layers, `stacked`
one loop that finds the layer by its index (`cdgm.layers`). Times include tracing. One
table starts a fresh process twice with one cache folder. The last takes a first step
whose blocks have a loss each, against blocks that share one: the losses compute the
same, so that the difference is what a step does for each loss.
"""

import os
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import optax

import cdgm
from benchmarks import measure, problems
from cdgm import layers

TX = optax.adam(1e-3)
LOSSES = 30
LOSSES_BAR = 1.2


def chain_descent(problem: problems.Problem) -> cdgm.Descent:
    """Each layer a block."""
    return cdgm.block_descent({name: cdgm.Block(name, loss, TX)
                               for name, loss in problem.losses.items()})


def named(problem: problems.Problem) -> None:
    """A program a layer."""
    descent = chain_descent(problem)
    state = jax.eval_shape(descent.init, problem.params)
    for name in problem.params:
        jax.jit(lambda state, name=name: descent.step(
            state, problem.batch, problem.key, name)).lower(state).compile()


def traced(problem: problems.Problem) -> None:
    """One program with a conditional."""
    descent = chain_descent(problem)
    state = jax.eval_shape(descent.init, problem.params)
    jax.jit(lambda state, index: descent.step(
        state, problem.batch, problem.key, index)).lower(state, jnp.int32(0)).compile()


def stacked(problem: problems.Problem) -> None:
    """One program that finds the layer by its index."""
    descent = problems.stacked_descent(TX)

    def step(stack, index):
        state = descent.init({'own': layers.take(stack, index), 'stack': stack})
        state, info = descent.step(state, (*problem.batch, index), problem.key, 'own')
        return layers.put(stack, state.params['own'], index), info

    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problem.params.values())
    jax.jit(step).lower(stack, jnp.int32(0)).compile()


FORMS = {'named': named, 'traced': traced, 'stacked': stacked}


def cache_rows() -> list[dict[str, float | str]]:
    """Seconds of a fresh process that compiles the `traced` program, twice."""
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ('empty cache', 'cache of the first run'):
            env = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': folder}
            done = subprocess.run(
                [sys.executable, '-m', 'benchmarks.compile', '--one', 'traced'],
                env=env, check=True, capture_output=True, text=True)
            rows.append({'process': name, 'seconds': float(done.stdout)})
    return rows


def loss_of_its_own(loss, name):
    """The same loss as another function."""
    def own(params, batch, key):
        value, _ = loss(params, batch, key)
        return value, None

    own.__name__ = f'loss_of_{name}'
    return own


def first_step(blocks: int, own_losses: bool) -> float:
    """Seconds until the first traced step is taken, of a chain of small layers."""
    problem = problems.chain(blocks, width=64)
    if own_losses:
        problem = problem._replace(losses={
            name: loss_of_its_own(loss, name) for name, loss in problem.losses.items()})
    descent = chain_descent(problem)
    state = jax.block_until_ready(jax.jit(descent.init)(problem.params))
    jax.clear_caches()
    began = time.perf_counter()
    step = jax.jit(lambda state, index: descent.step(
        state, problem.batch, problem.key, index))
    jax.block_until_ready(step(state, jnp.int32(0)))
    return time.perf_counter() - began


def first_step_rows(blocks: int, rounds: int) -> list[dict[str, float]]:
    """Median seconds with one loss and with a loss each, in turn, and their ratio."""
    seen = [(first_step(blocks, False), first_step(blocks, True))
            for _ in range(rounds)]
    shared, own = (sorted(times)[rounds // 2] for times in zip(*seen))
    return [{'blocks': blocks, 'one loss, s': shared, 'a loss each, s': own,
             'ratio': own / shared}]


def seconds(form: str, length: int) -> float:
    """Seconds to trace and compile all of a form's programs."""
    problem = problems.chain(length)
    jax.block_until_ready(problem.params)
    jax.clear_caches()
    began = time.perf_counter()
    FORMS[form](problem)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, save."""
    if sys.argv[1:2] == ['--one']:
        print(seconds(sys.argv[2], problems.LAYERS))
        return
    args = measure.arguments(__doc__)
    lengths = (2, 4) if args.quick else (4, 8, 16, 32)
    rounds = 1 if args.quick else 3
    rows = [{'layers': str(length), **{
        f'{form}, s': sorted(seconds(form, length) for _ in range(rounds))[rounds // 2]
        for form in FORMS}} for length in lengths]
    blocks = 5 if args.quick else LOSSES
    first = first_step_rows(blocks, rounds)
    measure.finish('compile', {
        'a step of any layer': rows, 'one program, 16 layers': cache_rows(),
        'first step': first}, [measure.Bar(
            f'first step of {blocks} blocks with a loss each, of that with one loss',
            first[0]['ratio'], LOSSES_BAR)], args)


if __name__ == '__main__':
    main()
