"""What deep stacks take, layer by layer against joint Adam: bytes, and time.

Bytes are the compiler's plan for one device (arguments, temporaries and outputs less
what is shared), a parameter; the time is that of a step, in one run, with the layers
checkpointed in both. Bars: 24 layers of 256 at 4.9 bytes a parameter in float32 and 2.9
in 16 bits; over 12 layers a mean step at a third of a joint one, the last layer's at
0.18. On a GPU or TPU it measures the device at hand. The last table is of the ways of
experiments.language_model, at its own sizes, where activations are most of it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from absl import flags

import cdgm
from benchmarks import measure
from cdgm import layers, losses, models
from experiments import language_model

WIDTH, VOCABULARY = 256, 65
LIMITS = {'float32': 4.9, '16 bits': 2.9}
VISIT = 5
WAYS = {'joint Adam': ['--order=joint'],
        'joint Adafactor': ['--order=joint', '--optimiser=adafactor'],
        'LoRA, rank 8': ['--order=joint', '--rank=8'], 'blocks': [],
        'blocks, 16 bits at rest': ['--half'],
        'blocks, embedding always on': ['--companions=embedding'],
        'blocks, the rest by sign': ['--riders=3e-4']}


def descents(depth: int, context: int) -> tuple[models.Transformer, cdgm.Descent,
                                                cdgm.Descent]:
    """A transformer, its blocks, and the same as one block."""
    model = models.transformer(VOCABULARY, width=WIDTH, depth=depth, heads=4,
                               context=context)
    loss = partial(losses.next_token_loss, hidden=model.hidden,
                   unembedding=model.unembedding)
    adam = optax.adam(1e-3)
    return model, cdgm.block_descent({
        'embedding': cdgm.Block(('embedding', 'head'), loss, adam, ephemeral=True),
        **layers.blocks('layers', depth, loss, adam)}), cdgm.block_descent(
            {'joint': cdgm.Block('', loss, adam)})


def byte_rows(depths: tuple[int, ...]) -> list[dict[str, float]]:
    """Bytes a parameter at the peak of a visit, and of a joint step."""
    rows = []
    for depth in depths:
        model, descent, _ = descents(depth, 32)
        params = jax.eval_shape(model.init, jax.random.key(0))
        count = sum(x.size for x in jax.tree.leaves(params))
        tokens = jax.ShapeDtypeStruct((1, 33), jnp.int32)
        row: dict[str, float] = {'layers': depth}
        for name in LIMITS:
            held = params if name == 'float32' else {
                **params, 'layers': jax.eval_shape(layers.encode, params['layers'])}
            own, joint = cdgm.memory(descent, held, tokens)
            row |= {f'{name}, bytes a parameter': own.peak / count,
                    'joint Adam': joint.peak / count}
        rows.append(row)
    return rows


def way_rows() -> list[dict[str, Any]]:
    """MB held between steps and at the peak, of each way to train the experiment."""
    rows: list[dict[str, Any]] = []
    for name, given in WAYS.items():
        values = flags.FlagValues()
        language_model.define_flags(values)
        values(['language_model', *given])
        model = models.transformer(
            len(language_model.VOCABULARY), width=values.width, depth=values.depth,
            heads=values.heads, context=values.context, rank=values.rank)
        loss = partial(losses.next_token_loss, hidden=model.hidden,
                       unembedding=model.unembedding)
        params = jax.eval_shape(model.init, jax.random.key(0))
        if values.half:
            params = {**params, 'layers': jax.eval_shape(layers.encode,
                                                         params['layers'])}
        own, _ = cdgm.memory(cdgm.block_descent(language_model.make_blocks(
            values, loss, {'rate': 1e-3, 'riders': 1e-3})), params,
            jax.ShapeDtypeStruct((values.batch_size, values.context + 1), jnp.int32))
        rows.append({'way': name, 'held MB': own.held / 1e6,
                     'peak MB': own.peak / 1e6})
    return rows


def step_programs(depth: int) -> dict[str, measure.Program]:
    """A joint step, and a visit of each of three layers on fresh minibatches."""
    model, descent, joint = descents(depth, 64)
    params = model.init(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (VISIT, 8, 65), 0, VOCABULARY)
    keys = jax.random.split(jax.random.key(2), VISIT)

    def visiting(of: cdgm.Descent, block) -> measure.Program:
        return measure.program(lambda state: of.visit(state, tokens, keys, block)[0],
                               of.init(params), steps=VISIT, count=False)

    same = measure.program(
        lambda state: descent.visit(state, tokens[0], keys[0], ('layers', depth // 2),
                                    steps=VISIT)[0],
        descent.init(params), steps=VISIT, count=False)
    return {'joint': visiting(joint, 0), **{
        f'layer {number}': visiting(descent, ('layers', number))
        for number in range(depth)},
        f'layer {depth // 2} on one minibatch': same}


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    depths, depth = ((2,), 3) if args.quick else ((6, 12, 24, 48), 12)
    bytes_taken = byte_rows(depths)
    times = measure.time_all(step_programs(depth), max(2, args.rounds // 5))
    joint, own = times['joint'], [times[f'layer {i}'] for i in range(depth)]
    rows = [{'program': name, 'ms a step': time, 'of joint': time / joint}
            for name, time in times.items()]
    bars = [measure.Bar(f'mean step over {depth} layers, of joint',
                        sum(own) / depth / joint, 0.33),
            measure.Bar("the last layer's step, of joint", own[-1] / joint, 0.18)]
    bars += [measure.Bar(f'bytes a parameter, 24 layers, {name}',
                         row[f'{name}, bytes a parameter'], limit)
             for row in bytes_taken if row['layers'] == 24
             for name, limit in LIMITS.items()]
    measure.finish('memory', {'bytes a parameter': bytes_taken,
                              f'{depth} layers of {WIDTH}, batch 8 x 64': rows,
                              'language_model': way_rows()}, bars, args)


if __name__ == '__main__':
    main()
