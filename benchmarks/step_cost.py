"""A step of one block: cdgm, a closure by hand, plain optax, and optax's recipes.

    python -m benchmarks.step_cost [--quick]

Adam of 1e-3 in every row. The recipes freeze all but one block by optax alone; that
they cost as much as joint training, or more, is why the active block has to be known
when the program is made.
"""

import jax
import jax.numpy as jnp
import optax

import cdgm
from benchmarks import measure, problems
from benchmarks.measure import Bar

TX = optax.adam(1e-3)


def plain(problem: problems.Problem, loss, tx):
    """A step on the full gradient."""
    def step(state):
        params, opt_state = state
        grads = jax.grad(lambda p: loss(p, problem.batch, problem.key)[0])(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return measure.program(step, (problem.params, tx.init(problem.params)))


def by_hand(problem: problems.Problem, name: str):
    """A step on a closure over the frozen blocks, reporting as cdgm does."""
    def step(state):
        params, opt_states, count, _ = state
        frozen = {other: leaf for other, leaf in params.items() if other != name}
        (value, _), grads = jax.value_and_grad(
            lambda mine: problem.losses[name]({**frozen, name: mine}, problem.batch,
                                              problem.key), has_aux=True)(params[name])
        updates, mine = TX.update(grads, opt_states[name], params[name])
        params = {**frozen, name: optax.apply_updates(params[name], updates)}
        return (params, {**opt_states, name: mine}, count + 1,
                (value, optax.tree.norm(grads)))

    states = {other: TX.init(leaf) for other, leaf in problem.params.items()}
    zero = jnp.zeros(())
    return measure.program(
        step, (problem.params, states, jnp.zeros((), jnp.int32), (zero, zero)))


def by_cdgm(problem: problems.Problem, block):
    """A step of `block_descent`, its block named or traced."""
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, TX)
                                  for name, loss in problem.losses.items()})

    def step(carry):
        state, index, _ = carry
        state, info = descent.step(state, problem.batch, problem.key,
                                   block if isinstance(block, str) else index)
        return state, index, (info.loss, info.grad_norm)

    zero, index = jnp.zeros(()), jnp.int32(0 if isinstance(block, str) else block)
    return measure.program(step, (descent.init(problem.params), index, (zero, zero)))


def apart(problem: problems.Problem, loss, tx):
    """Gradient and update in programs of their own, which each compute everything."""
    grad = jax.jit(jax.grad(lambda p: loss(p, problem.batch, problem.key)[0]))
    update = jax.jit(lambda grads, state: (lambda updates, opt_state: (
        optax.apply_updates(state[0], updates), opt_state))(
            *tx.update(grads, state[1], state[0])), donate_argnums=1)
    held = [jax.tree.map(jnp.copy, (problem.params, tx.init(problem.params)))]

    def run():
        held[0] = jax.block_until_ready(update(grad(held[0][0]), held[0]))

    return measure.Program(run)


def recipes(problem: problems.Problem, name: str) -> dict[str, measure.Program]:
    """Every way to move one block alone."""
    loss = problem.losses[name]
    names = list(problem.params)
    labels = {other: other for other in names}
    active = {other: TX if other == name else optax.set_to_zero() for other in names}
    frozen = optax.partition(active, labels)
    index = names.index(name)

    def now(index_of):
        return lambda step, *_, **__: step % len(names) == index_of

    rotating = optax.partition({other: optax.conditionally_mask(TX, now(i))
                                for i, other in enumerate(names)}, labels)
    turns = cdgm.cyclic([1] * len(names))
    descent = cdgm.coordinate_descent(TX, labels, schedule=turns)
    return {
        'joint: optax adam': plain(problem, loss, TX),
        'cdgm.block_descent, named': by_cdgm(problem, name),
        'cdgm.block_descent, traced': by_cdgm(problem, index),
        'closure by hand': by_hand(problem, name),
        'cdgm.coordinate_descent, full gradient': plain(problem, loss, descent),
        'optax partition + set_to_zero': plain(problem, loss, frozen),
        'optax partition of conditionally_mask': plain(problem, loss, rotating),
        'optax chain(adam, freeze)': plain(problem, loss, optax.chain(TX, optax.freeze(
            {other: other != name for other in names}))),
        'optax clip, then partition': plain(problem, loss, optax.chain(
            optax.clip_by_global_norm(1.), frozen)),
        'optax partition, gradient jitted apart': apart(problem, loss, frozen)}


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    tables, bars = {}, []
    cases = [('VAE', problems.vae(), ('encoder', 'decoder')),
             ('chain of 16 layers of 512', problems.chain(), ('layer0', 'layer8',
                                                              'layer15'))]
    for title, problem, names in cases:
        for name in names:
            programs = recipes(problem, name)
            rows = measure.measure(programs, args.rounds)
            ms = measure.milliseconds(rows)
            for row in rows:
                row['of_joint'] = row['ms'] / ms['joint: optax adam']
            tables[f'{title}, a step of {name!r}'] = rows
            for mine, other, limit in (
                    ('cdgm.block_descent, named', 'closure by hand', 1.02),
                    ('cdgm.coordinate_descent, full gradient', 'joint: optax adam',
                     1.05)):
                bars.append(Bar(f'{mine} against {other}; {title}, {name}',
                                measure.ratio(programs[mine], programs[other],
                                              args.rounds), limit))
    measure.finish('step_cost', tables, bars, args)


if __name__ == '__main__':
    main()
