"""What deep stacks take, layer by layer against joint Adam: bytes, and time.

Bytes are the compiler's plan for one device (arguments, temporaries and outputs less
what is shared), a parameter; the time is that of a step, in one run, with the layers
checkpointed in both, and with BAdam's own package training the same network in PyTorch.
Bars: 24 layers of 256 at 4.9 bytes a parameter in float32 and 2.9 in 16 bits; over 12
layers a mean step at a third of a joint one, the last layer's at 0.18, and the mean at
half of BAdam's. Peak bytes beside BAdam's are those of `benchmarks.resident`. On a GPU
or TPU `benchmarks.device` measures the device at hand. The last table is of the ways of
experiments.language_model, at its own sizes, where activations are most of it.
"""

import importlib.util
import time
from functools import partial
from statistics import mean
from typing import Any

import jax
import jax.numpy as jnp

import cdgm
from benchmarks import device, measure, problems, resident
from cdgm import layers, losses, models
from experiments import language_model
from experiments.harness import cli
from experiments.harness.sweep import spec

LIMITS = {'float32': 4.9, '16 bits': 2.9}
HOW = "BAdam is not compared: no {}; pip install -e '.[bench]'"


def byte_rows(depths: tuple[int, ...]) -> list[dict[str, float]]:
    """Bytes a parameter at the peak of a visit, and of a joint step."""
    rows = []
    for depth in depths:
        model, descent, _ = problems.transformer(depth, 256, context=32, vocabulary=65)
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
    """MB held between steps and at the peak, of each row of the sweep fine_tuning."""
    rows: list[dict[str, Any]] = []
    sweep = spec.read(spec.named('fine_tuning'))
    trials = {trial.id: trial for trial in sweep.trials}
    for line in sweep.tables[0].rows:
        first, *_ = next(iter(line.variants.values()))
        values = cli.parse(language_model.define_flags, trials[first].arguments)
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
        rows.append({'way': line.name, 'held MB': own.held / 1e6,
                     'peak MB': own.peak / 1e6})
    return rows


def missing() -> str | None:
    """The first package that the comparison with BAdam needs and that is not there."""
    return next((name for name in ('torch', 'transformers', 'badam')
                 if importlib.util.find_spec(name) is None), None)


def own_programs(depth: int) -> dict[str, measure.Program]:
    """A joint step, and visits of each layer: on fresh minibatches, and on one."""
    ways = problems.transformer(depth, **resident.SIZES)
    params = ways.model.init(jax.random.key(0))
    tokens = jnp.asarray(resident.batches(resident.SIZES['context'],
                                          resident.SIZES['vocabulary']))
    keys = jax.random.split(jax.random.key(2), len(tokens))
    programs = {'joint': measure.program(
        lambda state: ways.joint.visit(state, tokens, keys, 'joint')[0],
        ways.joint.init(params), steps=len(tokens), count=False)}
    for same in False, True:
        def visit(state, number, same=same):
            data = (tokens[0], keys[0]) if same else (tokens, keys)
            return ways.by_layers.visit(state, *data, ('layers', number),
                                        steps=len(tokens) if same else None)[0]

        # One program for all layers, as a training loop has it, and one state.
        state = jax.tree.map(jnp.copy, ways.by_layers.init(params))
        compiled = jax.jit(visit, donate_argnums=0).lower(state, jnp.int32(0)).compile()
        held = [state]
        for number in range(depth):
            def run(number=jnp.int32(number), compiled=compiled, held=held):
                held[0] = jax.block_until_ready(compiled(held[0], number))

            programs[_layer(number, same)] = measure.Program(run, len(tokens))
    return programs


def _layer(number: int, same: bool) -> str:
    return f'layer {number}' + ', one minibatch' * same


def peer_programs(depth: int) -> dict[str, measure.Program]:
    """BAdam and PyTorch's Adam, if they are there and compute where JAX does."""
    if missing():
        return {}
    from benchmarks import badam_transformer
    if (badam_transformer.device() == 'cpu') != (jax.default_backend() == 'cpu'):
        return {}
    sizes = resident.SIZES
    return badam_transformer.programs(depth, resident.batches(
        sizes['context'], sizes['vocabulary']), **sizes)


def price(depth: int, rounds: int) -> tuple[dict[str, Any], list[measure.Bar]]:
    """The tables of a step's time, and the bars."""
    times = measure.time_all(own_programs(depth) | peer_programs(depth), rounds)
    joint = times['joint']
    fresh, same = ([times.pop(_layer(number, same)) for number in range(depth)]
                   for same in (False, True))
    by_layer: list[dict[str, Any]] = [
        {'layer': number, 'ms a step': one, 'of joint': one / joint,
         'on one minibatch, ms': again, 'of joint, then': again / joint}
        for number, (one, again) in enumerate(zip(fresh, same))]
    times |= {'mean over the layers': mean(fresh),
              'mean over the layers, one minibatch': mean(same)}
    against: list[dict[str, Any]] = [
        {'program': name, 'ms a step': time, 'of joint': time / joint,
         "of BAdam's": time / times['BAdam'] if 'BAdam' in times else None}
        for name, time in times.items()]
    bars = [measure.Bar(f'mean step over {depth} layers, of joint',
                        mean(fresh) / joint, 0.33),
            measure.Bar("the last layer's step, of joint", fresh[-1] / joint, 0.18)]
    if 'BAdam' in times:
        bars.append(measure.Bar(f"mean step over {depth} layers, of BAdam's",
                                mean(fresh) / times['BAdam'], 0.5))
    return {f"a step against BAdam's package, {depth} layers of 256, batch 8 x 64":
            against, 'the same, by layer': by_layer}, bars


def compile_times(depth: int) -> dict[str, float]:
    """Seconds to trace and compile a visit: of the whole, and of any of the layers."""
    ways = problems.transformer(depth, **resident.SIZES)
    params = jax.eval_shape(ways.model.init, jax.random.key(0))
    tokens = resident.batches(resident.SIZES['context'], resident.SIZES['vocabulary'])
    keys = jax.random.split(jax.random.key(2), len(tokens))

    def seconds(descent, block):
        began = time.perf_counter()
        jax.jit(lambda state, number: descent.visit(
            state, tokens, keys, block(number))[0], donate_argnums=0).lower(
                jax.eval_shape(descent.init, params), jnp.int32(0)).compile()
        return time.perf_counter() - began

    return {'joint': seconds(ways.joint, lambda number: 'joint'),
            'any layer': seconds(ways.by_layers, lambda number: ('layers', number))}


def peak_rows(depth: int) -> list[dict[str, Any]]:
    """MB at the peak of a cycle over the layers, of cdgm and BAdam on the CPU."""
    ways = problems.transformer(depth, **resident.SIZES)
    params = jax.eval_shape(ways.model.init, jax.random.key(0))
    coded = {**params, 'layers': jax.eval_shape(layers.encode, params['layers'])}
    tokens = jax.ShapeDtypeStruct((resident.BATCH, resident.SIZES['context'] + 1),
                                  jnp.int32)
    plans = {way: cdgm.memory(ways.by_layers, held, tokens)[0].peak / 1e6
             for way, held in zip(resident.WAYS, (params, coded))}
    there = [way for way in resident.WAYS if way in plans or not missing()]
    return [{'way': way, 'peak MB': resident.measured(way, depth),
             'plan MB': plans.get(way)} for way in there]


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    # Before this process takes the device for itself.
    on_device, said = device.rows()
    depths, depth = ((2,), 3) if args.quick else ((6, 24, 48), 12)
    bytes_taken = byte_rows(depths)
    tables, bars = price(depth, max(2, args.rounds // 5))
    compiling = compile_times(2 * depth)
    bars.append(measure.Bar(f'to compile a visit of any of {2 * depth} layers',
                            compiling['any layer'] / compiling['joint'], 1.2))
    bars += [measure.Bar(f'bytes a parameter, 24 layers, {name}',
                         row[f'{name}, bytes a parameter'], limit)
             for row in bytes_taken if row['layers'] == 24
             for name, limit in LIMITS.items()]
    tables |= {'to compile a visit': [{'of': name, 'seconds': taken}
                                      for name, taken in compiling.items()],
               'peak bytes of a cycle over these layers, on the CPU': peak_rows(depth),
               'bytes a parameter': bytes_taken, 'language_model': way_rows()}
    if on_device:
        tables |= {f'a large stack {said}': on_device}
    measure.finish('memory', tables, bars, args)
    if not on_device:
        print(f'  {said}')
    if missing():
        print(f'  {HOW.format(missing())}')


if __name__ == '__main__':
    main()
