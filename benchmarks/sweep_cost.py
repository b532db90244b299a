"""Visits, cycles and scanned runs, against joint training.

    python -m benchmarks.sweep_cost [--quick]

A cycle is decoder, then encoder, on one minibatch with one key. A visit is five steps
on one layer of the chain, on one minibatch; the layers take turns, so a step is the
mean over all layers. `stacked` finds the layer by a traced index (`cdgm.layers`).
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

import cdgm
from benchmarks import measure, problems, step_cost
from benchmarks.measure import Bar, Program
from cdgm import layers

TX = optax.adam(1e-3)
STEPS = 5
RUN = 50  # steps of the scanned run


def joint(problem: problems.Problem) -> Program:
    """Plain optax."""
    return step_cost.plain(problem, next(iter(problem.losses.values())), TX)


def descent_of(problem: problems.Problem, ephemeral: bool = False) -> cdgm.Descent:
    """All blocks by Adam."""
    return cdgm.block_descent({name: cdgm.Block(name, loss, TX, ephemeral)
                               for name, loss in problem.losses.items()})


def swept(problem: problems.Problem, order: tuple[str, ...]) -> Program:
    """Cycles; a step of the table is a cycle."""
    descent = descent_of(problem)
    return measure.program(
        lambda state: descent.cycle(state, problem.batch, problem.key, order)[0],
        descent.init(problem.params))


def visited(problem: problems.Problem, *, shared: bool) -> Program:
    """Visits to all layers in turn, each by the program of that layer."""
    descent = descent_of(problem, ephemeral=True)
    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (STEPS, *x.shape)),
                           (problem.batch, problem.key))

    def visit(name):
        def run(state):
            if shared:
                return descent.visit(state, problem.batch, problem.key, name,
                                     steps=STEPS)[0]
            batches, keys = stacked
            return descent.visit(state, batches, keys, name)[0]
        return run

    state = jax.tree.map(jnp.copy, descent.init(problem.params))
    programs = [jax.jit(visit(name), donate_argnums=0).lower(state).compile()
                for name in problem.params]
    held = [state]

    def run():
        for one in programs:
            held[0] = one(held[0])
        jax.block_until_ready(held[0])

    return Program(run, STEPS * len(programs))


def visited_by_index(problem: problems.Problem) -> Program:
    """The same visits by one program, which finds the layer by a traced index."""
    descent = problems.stacked_descent(TX)

    def cycle(stack):
        def visit(index, stack):
            state = descent.init({'own': layers.take(stack, index), 'stack': stack})
            state, _ = descent.visit(state, (*problem.batch, index), problem.key, 'own',
                                     steps=STEPS)
            return layers.put(stack, state.params['own'], index)

        return lax.fori_loop(0, len(problem.params), visit, stack)

    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problem.params.values())
    return measure.program(cycle, stack, steps=STEPS * len(problem.params), count=False)


def runs(problem: problems.Problem, order: tuple[str, ...]) -> dict[str, Program]:
    """The same cycles, scanned and from a Python loop; a step is a cycle."""
    descent = descent_of(problem)

    def cycle(state):
        return descent.cycle(state, problem.batch, problem.key, order)[0]

    def scanned(state):
        return lax.scan(lambda state, _: (cycle(state), None), state, None, RUN)[0]

    state = descent.init(problem.params)
    return {'scanned run': measure.program(scanned, state, steps=RUN, count=False),
            'from a Python loop': measure.program(cycle, state, calls=RUN)}


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    vae, gan, chain = problems.vae(), problems.gan(), problems.chain()
    tables, bars = {}, []

    programs = {'joint: optax adam': joint(vae),
                'cycle decoder, encoder': swept(vae, ('decoder', 'encoder')),
                'cycle encoder, decoder': swept(vae, ('encoder', 'decoder'))}
    rows = tables['VAE, a cycle'] = measure.measure(programs, args.rounds)
    ms = measure.milliseconds(rows)
    for title, problem, order in (('VAE', vae, ('decoder', 'encoder')),
                                  ('GAN', gan, ('discriminator', 'generator'))):
        rows = measure.measure(runs(problem, order), args.rounds)
        tables[f'{title}, {RUN} cycles ({", ".join(order)})'] = rows
        ms = measure.milliseconds(rows)
        if title == 'VAE':
            bars.append(Bar('VAE: scanned run against a Python loop',
                            ms['scanned run'] / ms['from a Python loop'], 0.75))

    programs = {'joint: optax adam': joint(chain),
                'visits, all recomputed': visited(chain, shared=False),
                'visits on one minibatch': visited(chain, shared=True),
                'visits on one minibatch, stacked': visited_by_index(chain)}
    rows = measure.measure(programs, args.rounds)
    tables[f'chain of 16 layers of 512, visits of {STEPS} steps, a step'] = rows
    ms = measure.milliseconds(rows)
    for name in ('visits on one minibatch', 'visits on one minibatch, stacked'):
        bars.append(Bar(f'chain: {name} against joint', ms[name] / ms[
            'joint: optax adam'], 0.42))
    measure.finish('sweep_cost', tables, bars, args)


if __name__ == '__main__':
    main()
