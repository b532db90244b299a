"""Seeds in one program against one seed; trials in one process against one each.

    python -m benchmarks.seeds [--quick]

Seeds are a mapped axis of the small VAE's decoder-then-encoder sweep (64-32-8, batch
128). Trials are 3 optimisers x 4 seeds x 2 learning rates: in one process a learning
rate and a seed are arguments of one compiled program, so 24 trials compile 3. On a GPU
32 seeds are measured as well; a plain matrix product stands beside them.
"""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import optax
from jax import lax

import cdgm
from benchmarks import measure
from benchmarks.measure import Bar, Program
from cdgm import losses, models

ORDER = ('decoder', 'encoder')
OPTIMISERS = {'sgd': optax.sgd, 'adam': optax.adam, 'rmsprop': optax.rmsprop}
RATES = (1e-3, 3e-4)
SWEEPS = 200
MODEL = models.vae((8, 8), 8, (32,))
BATCH = (jnp.arange(128 * 64).reshape(128, 8, 8) % 7 < 3).astype(jnp.float32)


def loss(params, batch, key):
    """-ELBO of the small VAE."""
    return losses.neg_elbo(params, batch, key, encode=MODEL.encode,
                           decode=MODEL.decode)


def train(optimiser: str, seed, rate, sweeps: int = SWEEPS):
    """Train from a seed; the loss of every update, float32[sweeps, 2]."""
    rule = optax.inject_hyperparams(OPTIMISERS[optimiser])(rate)
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, rule) for name in ORDER})
    key = jax.random.key(seed)

    def sweep(state, number):
        noise = jax.random.fold_in(key, number)
        state, info = descent.sweep(state, BATCH, noise, ORDER)
        return state, info.loss

    return lax.scan(sweep, descent.init(MODEL.init(key)), jnp.arange(sweeps))[1]


def seeds_program(count: int, sweeps: int) -> Program:
    """So many seeds side by side; a step is a sweep of all of them."""
    seeds = jnp.arange(count)
    compiled = jax.jit(lambda seeds: jax.vmap(
        lambda seed: train('adam', seed, 1e-3, sweeps))(seeds)).lower(seeds).compile()
    return Program(lambda: jax.block_until_ready(compiled(seeds)), sweeps)


def trials() -> list[tuple[str, int, float]]:
    """All trials; those of one optimiser share a program."""
    return [(name, seed, rate) for name in OPTIMISERS for seed in range(4)
            for rate in RATES]


def run_trials(wanted: list[tuple[str, int, float]]) -> list[float]:
    """Last losses of trials, in this process."""
    programs = {name: jax.jit(lambda seed, rate, name=name: train(name, seed, rate))
                for name in OPTIMISERS}
    return [float(programs[name](seed, rate)[-1, -1]) for name, seed, rate in wanted]


def compare_trials(wanted: list[tuple[str, int, float]]) -> dict[str, float]:
    """Seconds in one process and in one each, and whether the results agree."""
    def run(some):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, '-m', 'benchmarks.seeds', '--trials', json.dumps(some)],
            check=True, capture_output=True, text=True)
        return json.loads(done.stdout), time.perf_counter() - began

    together, seconds = run(wanted)
    apart = [run([one]) for one in wanted]
    return {'program': f'{len(wanted)} trials', 'one process, s': seconds,
            'one process each, s': sum(spent for _, spent in apart),
            'identical': [first for (first,), _ in apart] == together}


def main() -> None:
    """Measure, print, save."""
    if sys.argv[1:2] == ['--trials']:
        print(json.dumps(run_trials(json.loads(sys.argv[2]))))
        return
    args = measure.arguments(__doc__)
    gpu = jax.default_backend() != 'cpu'
    counts, sweeps = ((1, 8, 32) if gpu else (1, 2, 8)), 20 if args.quick else 200
    rows = measure.measure({f'seeds: {count}': seeds_program(count, sweeps)
                            for count in counts}, args.rounds)
    ms = measure.milliseconds(rows)
    for row in rows:
        row['of_one_seed'] = row['ms'] / ms['seeds: 1']
    bars = [Bar('8 seeds against one', ms['seeds: 8'] / ms['seeds: 1'], 7)]
    if gpu:
        bars = [Bar('32 seeds against one', ms['seeds: 32'] / ms['seeds: 1'], 3)]
    trial = compare_trials(trials()[:2] if args.quick else trials())
    bars.append(Bar('trials in one process against one each (at most 1/5)',
                    trial['one process, s'] / trial['one process each, s'], 0.2))
    measure.finish('seeds', {'a sweep of all seeds': rows, 'trials': [trial]}, bars,
                   args)
    if not trial['identical']:
        sys.exit('error: a trial differs when it runs alone.')


if __name__ == '__main__':
    main()
