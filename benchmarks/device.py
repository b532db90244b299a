"""A large stack on the GPU or TPU at hand: peak bytes, and tokens a second.

By layers, in 16 bits at rest, the largest of SHAPES whose compiled plan fits, from 8e9
parameters down; and the largest that joint Adam holds too, in float32, trained in both
ways. A device's high-water mark is never reset, so each is measured in a process of its
own. Where there is only a CPU nothing is.

    python -m benchmarks.device [WAY LAYERS WIDTH]     what is at hand, or one row
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import cdgm
from benchmarks import problems
from cdgm import layers, models

Shape = tuple[int, int]  # layers, width

SHAPES: tuple[Shape, ...] = (
    (40, 4096), (32, 4096), (24, 4096), (16, 4096), (8, 4096), (24, 2048), (12, 2048),
    (24, 1024), (12, 1024), (12, 512))
SIZES = {'context': 512, 'vocabulary': 32_000, 'chunk': 512}
BATCH, VISIT, PLACES = 4, 5, 5
NONE = ('no GPU or TPU at hand: an 8B-shaped stack by layers, and tokens a second by '
        'layers against joint Adam, are not measured here.')

# Bytes a parameter, in all and in one layer: the least that could be held.
_LAW = {'layers': (2, 16), 'joint': (16, 0)}
_ROOM = 0.9  # of the limit: allocators waste some


def rows() -> tuple[list[dict[str, Any]], str]:
    """The table, a row a measurement, and what is to be said beside it."""
    told = _child()
    if told['platform'] == 'cpu':
        return [], NONE
    if not told.get('limit'):
        return [], f"{told['kind']} does not tell how much memory it has: not measured."
    found, said = [], [f"on {told['kind']}, {told['limit'] / 1e9:.1f} GB"]
    for way, shape in dict.fromkeys((way, told[holds] and tuple(told[holds]))
                                    for way, holds in (('layers', 'alone'),
                                                       ('layers', 'both'),
                                                       ('joint', 'both'))):
        try:
            if shape:
                found.append(_child(way, *shape))
        except RuntimeError as error:  # it did not fit after all
            said.append(str(error))
    return found, '\n  '.join(said)


def _child(*arguments: Any) -> dict[str, Any]:
    """What this module prints in a process of its own."""
    environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '.95'} | os.environ
    told = subprocess.run(
        [sys.executable, '-m', 'benchmarks.device', *map(str, arguments)],
        env=environment, check=False, text=True, capture_output=True)
    if told.returncode:
        raise RuntimeError(f'device {arguments}: {told.stderr[-2000:]}')
    return json.loads(told.stdout.splitlines()[-1])


def at_hand() -> dict[str, Any]:
    """The device, and the largest shapes that it holds by layers, and in both ways."""
    device = jax.devices()[0]
    told: dict[str, Any] = {'platform': device.platform, 'kind': device.device_kind}
    limit = (device.memory_stats() or {}).get('bytes_limit')
    if device.platform == 'cpu' or not limit:
        return told
    return told | {'limit': limit, 'alone': largest(['layers'], limit, SHAPES, **SIZES),
                   'both': largest(['layers', 'joint'], limit, SHAPES, **SIZES)}


def largest(ways: list[str], limit: float, shapes: tuple[Shape, ...], **sizes: int
            ) -> Shape | None:
    """The first shape that fits in every one of the ways; None if there is none."""
    for shape in shapes:
        count, layer = _counts(shape, **sizes)
        # Compile nothing that cannot fit.
        if all(of_all * count + of_layer * layer <= _ROOM * limit
               for of_all, of_layer in (_LAW[way] for way in ways)):
            plan = plans(shape, **sizes)
            if all(plan[way] <= _ROOM * limit for way in ways):
                return shape
    return None


def plans(shape: Shape, **sizes: int) -> dict[str, int]:
    """Peak bytes of each way, as the compiler plans them."""
    ways = _problem(shape, **sizes)
    params = jax.eval_shape(ways.model.init, jax.random.key(0))
    params['layers'] = jax.eval_shape(layers.encode, params['layers'])
    tokens = jax.ShapeDtypeStruct((BATCH, sizes['context'] + 1), jnp.int32)
    by_layers, joint = cdgm.memory(ways.by_layers, params, tokens)
    return {'layers': by_layers.peak, 'joint': joint.peak}


def _counts(shape: Shape, **sizes: int) -> tuple[int, int]:
    """Parameters in all, and of a layer."""
    params = jax.eval_shape(_problem(shape, **sizes).model.init, jax.random.key(0))
    size = {name: sum(x.size for x in jax.tree.leaves(part))
            for name, part in params.items()}
    return sum(size.values()), size['layers'] // shape[0]


def _problem(shape: Shape, **sizes: int) -> problems.Ways:
    depth, width = shape
    return problems.transformer(depth, width, heads=max(1, width // 128), **sizes)


def start(way: str, shape: Shape, model: models.Transformer, **sizes: int) -> Any:
    """Parameters; of a stack in 16 bits one layer at a time is ever in float32."""
    key = jax.random.key(0)
    if way == 'joint':
        return jax.jit(model.init)(key)
    one = _problem((1, shape[1]), **sizes).model
    params = jax.jit(lambda key: {name: part for name, part in one.init(key).items()
                                  if name != 'layers'})(key)

    def layer(key):
        return jax.tree.map(lambda x: x[0], layers.encode(one.init(key)['layers']))

    params['layers'] = jax.jit(partial(lax.map, layer))(
        jax.random.split(key, shape[0]))
    return params


def row(way: str, shape: Shape, **sizes: int) -> dict[str, Any]:
    """Train a shape in one way, by visits of layers evenly apart: what it took.

    What a layer costs is linear in its place, so their mean is that of all.
    """
    ways = _problem(shape, **sizes)
    descent = ways.joint if way == 'joint' else ways.by_layers
    tokens = jax.random.randint(jax.random.key(1), (
        VISIT, BATCH, sizes['context'] + 1), 0, sizes['vocabulary'])
    keys = jax.random.split(jax.random.key(2), VISIT)
    state = descent.init(start(way, shape, ways.model, **sizes))
    visit = jax.jit(lambda state, number: descent.visit(
        state, tokens, keys, 'joint' if way == 'joint' else ('layers', number))[0],
        donate_argnums=0)
    places = np.linspace(0, shape[0] - 1, PLACES).round().astype(np.int32)
    state = jax.block_until_ready(visit(state, places[0]))
    began = time.perf_counter()
    for place in places:
        state = jax.block_until_ready(visit(state, place))
    seconds = (time.perf_counter() - began) / (VISIT * len(places))
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get('peak_bytes_in_use')
    return {'trained': 'joint' if way == 'joint' else 'by layers, 16 bits',
            'layers': shape[0], 'width': shape[1],
            '1e9 parameters': _counts(shape, **sizes)[0] / 1e9,
            'peak GB': peak and peak / 1e9,
            'plan GB': plans(shape, **sizes)[way] / 1e9, 'ms a step': 1e3 * seconds,
            'tokens a second': BATCH * sizes['context'] / seconds}


def main(arguments: list[str]) -> None:
    """Print one row or what is at hand, for `rows`."""
    if arguments:
        way, depth, width = arguments
        print(json.dumps(row(way, (int(depth), int(width)), **SIZES)))
    else:
        print(json.dumps(at_hand()))


if __name__ == '__main__':
    main(sys.argv[1:])
