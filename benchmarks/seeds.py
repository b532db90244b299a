"""Seeds in one program against one seed.

    python -m benchmarks.seeds [--quick]

Seeds are a mapped axis of the small VAE's decoder-then-encoder cycle (64-32-8, batch
128). On a GPU 32 seeds are measured as well; a plain matrix product stands beside them.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

import cdgm
from benchmarks import measure
from benchmarks.measure import Bar, Program
from cdgm import losses, models

ORDER = ('decoder', 'encoder')
MODEL = models.vae((8, 8), 8, (32,))
BATCH = (jnp.arange(128 * 64).reshape(128, 8, 8) % 7 < 3).astype(jnp.float32)


def loss(params, batch, key):
    """-ELBO of the small VAE."""
    return losses.neg_elbo(params, batch, key, encode=MODEL.encode,
                           decode=MODEL.decode)


def train(seed, cycles: int):
    """Train from a seed; the loss of every update, float32[cycles, 2]."""
    rule = optax.adam(1e-3)
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, rule) for name in ORDER})
    key = jax.random.key(seed)

    def cycle(state, number):
        noise = jax.random.fold_in(key, number)
        state, info = descent.cycle(state, BATCH, noise, ORDER)
        return state, info.loss

    return lax.scan(cycle, descent.init(MODEL.init(key)), jnp.arange(cycles))[1]


def seeds_program(count: int, cycles: int) -> Program:
    """So many seeds side by side; a step is a cycle of all of them."""
    seeds = jnp.arange(count)
    compiled = jax.jit(lambda seeds: jax.vmap(
        lambda seed: train(seed, cycles))(seeds)).lower(seeds).compile()
    return Program(lambda: jax.block_until_ready(compiled(seeds)), cycles)


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    gpu = jax.default_backend() != 'cpu'
    counts, cycles = ((1, 8, 32) if gpu else (1, 2, 8)), 20 if args.quick else 200
    rows = measure.measure({f'seeds: {count}': seeds_program(count, cycles)
                            for count in counts}, args.rounds)
    ms = measure.milliseconds(rows)
    for row in rows:
        row['of_one_seed'] = row['ms'] / ms['seeds: 1']
    bars = [Bar('8 seeds against one', ms['seeds: 8'] / ms['seeds: 1'], 7)]
    if gpu:
        bars = [Bar('32 seeds against one', ms['seeds: 32'] / ms['seeds: 1'], 3)]
    measure.finish('seeds', {'a cycle of all seeds': rows}, bars, args)


if __name__ == '__main__':
    main()
