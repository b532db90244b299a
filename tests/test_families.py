"""A stack's layers as blocks equal the same updates by hand, on the whole gradient.

The oracle differentiates everything jointly, cuts the gradient by layers, and hands
each cut to stock optax; it knows nothing of open stacks, passes or riders in a loop.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import layers

DEPTH, SIZE, BATCH, STEPS = 4, 5, 3, 3
RULE = optax.chain(optax.clip_by_global_norm(0.3), optax.adamw(0.05))
SIGN = optax.sign_sgd(0.01)


def layer(params, x):
    x = x + jnp.tanh(x @ params['attention']['kernel'])
    return x + jnp.tanh(x @ params['mlp']['kernel'] + params['mlp']['bias'][None])


def loss(params, batch, key):
    noise = 0.1 * jax.random.normal(key, batch.shape) if key is not None else 0.
    x = layers.apply(layer, params['layers'], (batch + noise) @ params['embedding'])
    return jnp.mean(jnp.square(x @ params['head'] - 1)), {'norm': jnp.sum(x ** 2)}


@pytest.fixture
def params(key):
    keys = iter(jax.random.split(key, 5))

    def normal(*shape):
        return 0.6 * jax.random.normal(next(keys), shape)

    return {'embedding': normal(SIZE, SIZE), 'head': normal(SIZE, 2),
            'layers': {'attention': {'kernel': normal(DEPTH, SIZE, SIZE)},
                       'mlp': {'kernel': normal(DEPTH, SIZE, SIZE),
                               'bias': normal(DEPTH, SIZE)}}}


@pytest.fixture
def batches(key):
    return jax.random.normal(jax.random.fold_in(key, 1), (STEPS, BATCH, SIZE))


def outside(**fields):
    return {name: cdgm.Block(name, loss, RULE, **fields)
            for name in ('embedding', 'head')}


def whole(**fields):
    return {**outside(), **layers.blocks('layers', DEPTH, loss, RULE, **fields)}


def assert_equal(one, other, tolerance=1e-12):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=tolerance), one,
                 other)


def cut(tree, part, start, size):
    """Leaves of layers, as optax is given them: part is a path of keys."""
    for name in part:
        tree = tree[name]
    return jax.tree.map(lambda x: x[start] if size == 1 else x[start:start + size],
                        tree)


def paste(tree, part, start, size, own):
    if part:
        name, *rest = part
        return {**tree, name: paste(tree[name], rest, start, size, own)}
    at = start if size == 1 else slice(start, start + size)
    return jax.tree.map(lambda x, one: x.at[at].set(one), tree, own)


joint = jax.jit(jax.value_and_grad(loss, has_aux=True))


def by_hand(params, batches, keys, part, start, size, riders=(), rider=None,
            companions=()):
    """Visit layers of the stack; (params, losses), every gradient a joint one."""
    tx, states = RULE, {}
    for batch, key in zip(batches, keys):
        (value, _), grads = joint(params, batch, key)
        own = cut(params['layers'], part, start, size)
        state = states.get('own', None) or tx.init(own)
        updates, states['own'] = tx.update(cut(grads['layers'], part, start, size),
                                           state, own)
        stack = paste(params['layers'], part, start, size,
                      optax.apply_updates(own, updates))
        for j in riders:
            mine = cut(params['layers'], (), j, 1)
            updates, _ = rider.update(cut(grads['layers'], (), j, 1), rider.init(mine),
                                      mine)
            stack = paste(stack, (), j, 1, optax.apply_updates(mine, updates))
        params = {**params, 'layers': stack}
        yield params, value


PARTS = {'layers': (), 'layers/attention': ('attention',), 'layers/mlp': ('mlp',)}


@pytest.mark.parametrize('leaves, size', [
    ('layers', 1), ('layers', 2), ('layers', DEPTH), ('layers/mlp', 1),
    ('layers/attention', DEPTH)])
@pytest.mark.sample(2)
def test_a_visit_moves_the_layers_as_optax_would(leaves, size, params, batches, key):
    blocks = outside()
    for name in PARTS if leaves != 'layers' else ['layers']:
        if name != 'layers' or leaves == 'layers':
            blocks |= layers.blocks(name, DEPTH, loss, RULE, stack='layers', size=size)
    descent = cdgm.block_descent(blocks)
    state = descent.init(params)
    keys = jax.random.split(key, STEPS)
    program = jax.jit(descent.visit)
    of_family = jax.jit(lambda *args: descent.visit(*args[:3], (leaves, args[3])))
    for number in range(DEPTH // size):
        *_, (expected, value) = by_hand(params, batches, keys, PARTS[leaves],
                                        number * size, size)
        index = list(descent.blocks).index(f'{leaves}/{number}')
        moved, info = program(state, batches, keys, jnp.asarray(index))
        assert_equal(moved.params, expected)
        assert_equal(info.loss[-1], value)
        assert info.block.tolist() == [index] * STEPS
        pair, _ = of_family(state, batches, keys, jnp.asarray(number))
        assert_equal(pair.params, expected)
    assert program._cache_size() == of_family._cache_size() == 1


@pytest.mark.thorough
def test_a_named_step_is_the_traced_one(params, batches, key):
    descent = cdgm.block_descent(whole(ephemeral=False))
    state = descent.init(params)
    for number in (0, 2, 2):
        named, seen = jax.jit(partial(descent.step, block=f'layers/{number}'))(
            state, batches[0], key)
        state, info = jax.jit(descent.step)(state, batches[0], key,
                                            jnp.asarray(2 + number))
        assert_equal(named.params, state.params, 0)
        assert_equal(named.opt_state, state.opt_state, 0)
        assert int(seen.block) == int(info.block) == 2 + number
    # The state of layer 2 was kept, that of layer 1 never began.
    counts = optax.tree.get(state.opt_state['layers'], 'count')
    assert counts.tolist() == [1, 0, 2, 0]


def test_a_visit_on_one_minibatch_is_its_steps(params, batches, key):
    descent = cdgm.block_descent(whole())
    state = descent.init(params)
    moved, _ = jax.jit(partial(descent.visit, block=('layers', 1), steps=STEPS))(
        state, batches[0], key)
    *_, (expected, _) = by_hand(params, [batches[0]] * STEPS, [key] * STEPS, (), 1, 1)
    assert_equal(moved.params, expected)


@pytest.mark.parametrize('reach, number, riding', [
    ('deeper', 1, (2, 3)), ('deeper', 3, ()), ('all', 2, (0, 1, 3))])
@pytest.mark.parametrize('kind', ['pair', 'traced', 'same minibatch'])
@pytest.mark.sample(3)
def test_layers_that_ride_move_in_the_loop(reach, number, riding, kind, params,
                                           batches, key):
    descent = cdgm.block_descent(whole(riders={'layers': SIGN}, reach=reach))
    state, keys = descent.init(params), jax.random.split(key, STEPS)
    if kind == 'same minibatch':
        batches, keys = [batches[0]] * STEPS, [key] * STEPS
        moved, _ = jax.jit(partial(descent.visit, block=('layers', number),
                                   steps=STEPS))(state, batches[0], key)
    else:
        moved, _ = jax.jit(lambda *args: descent.visit(
            *args[:3], args[3] if kind == 'traced' else ('layers', args[3] - 2)))(
                state, batches, keys, jnp.asarray(2 + number))
    *_, (expected, _) = by_hand(params, batches, keys, (), number, 1, riding, SIGN)
    assert_equal(moved.params, expected)


def test_riders_follow_a_schedule_of_the_whole_descent(params, batches, key):
    """Twice the layer, then the embedding: the third step has the third rate."""
    rates = (1., 0.1, 0.01)
    falling = optax.chain(cdgm.transforms.scale_by_global_schedule(
        lambda count: jnp.asarray(rates)[count]), optax.sgd(1.))
    blocks = whole(riders={'layers': falling, 'head': falling}, reach='all')
    blocks['embedding'] = blocks['embedding']._replace(riders={'layers': falling})
    descent = cdgm.block_descent(blocks)
    state = descent.init(params)
    for rate, block in zip(rates, ('layers/1', 'layers/1', 'embedding')):
        before = state.params
        _, grads = joint(before, batches[0], key)
        state, _ = jax.jit(partial(descent.step, block=block))(state, batches[0], key)
        assert_equal(cut(state.params['layers'], (), 3, 1), jax.tree.map(
            lambda x, g, rate=rate: x - rate * g, cut(before['layers'], (), 3, 1),
            cut(grads['layers'], (), 3, 1)))
        assert_equal(state.params['head'], before['head'] - (
            rate if block != 'embedding' else 0) * grads['head'])


def test_all_layers_ride_with_a_block_outside(params, batches, key):
    blocks = whole()
    blocks['embedding'] = blocks['embedding']._replace(riders={
        'layers': SIGN, 'head': optax.sgd(0.1)})
    descent = cdgm.block_descent(blocks)
    state = descent.init(params)
    moved, _ = jax.jit(partial(descent.step, block='embedding'))(state, batches[0], key)
    grads, _ = jax.grad(loss, has_aux=True)(params, batches[0], key)
    by_sign = jax.tree.map(lambda x, g: x + SIGN.update(g, SIGN.init(x), x)[0],
                           params['layers'], grads['layers'])
    assert_equal(moved.params['layers'], by_sign)
    assert_equal(moved.params['head'], params['head'] - 0.1 * grads['head'])
    updates, _ = RULE.update(grads['embedding'], RULE.init(params['embedding']),
                             params['embedding'])
    assert_equal(moved.params['embedding'], params['embedding'] + updates)


@pytest.mark.parametrize('kind', ['pair', 'traced'])
def test_companions_are_always_on(kind, params, batches, key):
    """LISA, as `optax.partition` has it, and the companions keep their state."""
    descent = cdgm.block_descent(whole(companions=('embedding', 'head')))
    state, keys = descent.init(params), jax.random.split(key, STEPS)
    labels = {'embedding': 'e', 'head': 'h', 'layers': 'own'}
    visits = [1, 3, 1]
    program = jax.jit(lambda *args: descent.visit(
        *args[:3], args[3] if kind == 'traced' else ('layers', args[3] - 2)))
    for number in visits:
        state, _ = program(state, batches, keys, jnp.asarray(2 + number))
    # By hand: a fresh rule for the layer at each visit, the others' go on.
    kept, tx = None, optax.partition({'e': RULE, 'h': RULE, 'own': RULE}, labels)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    for number in visits:

        def opened(params, number=number):
            return {**params, 'layers': cut(params['layers'], (), number, 1)}

        opt_state = tx.init(opened(params))
        if kept is not None:
            opt_state.inner_states.update(kept)
        for batch, its_key in zip(batches, keys):
            grads, _ = gradient(params, batch, its_key)
            updates, opt_state = tx.update(opened(grads), opt_state, opened(params))
            moved = optax.apply_updates(opened(params), updates)
            params = {**moved, 'layers': paste(params['layers'], (), number, 1,
                                               moved['layers'])}
        kept = {name: opt_state.inner_states[name] for name in 'eh'}
    assert_equal(state.params, params)


def test_simultaneous_moves_every_layer_by_its_own_rule(params, batches, key):
    descent = cdgm.block_descent(whole(ephemeral=False))
    state = descent.init(params)
    grads, _ = jax.grad(loss, has_aux=True)(params, batches[0], key)
    moved, info = jax.jit(descent.simultaneous)(state, batches[0], key)
    expected = params
    for number in range(DEPTH):
        expected, _ = next(iter(by_hand({**params, 'layers': params['layers']},
                                        [batches[0]], [key], (), number, 1)))
        own = cut(expected['layers'], (), number, 1)
        assert_equal(cut(moved.params['layers'], (), number, 1), own)
        assert_equal(info.grad_norm[2 + number], optax.tree.norm(
            cut(grads['layers'], (), number, 1)))
    assert info.block.tolist() == list(range(2 + DEPTH))


def test_a_move_takes_all_layers_from_one_point_too(params, batches, key):
    """A move is given its own block's loss, so the family is no single gradient."""
    shared = cdgm.moves.gradient_move(RULE)  # the same one, for one program serves
    moves = {name: block._replace(tx=shared) for name, block in whole().items()}
    ends = []
    for blocks in (whole(), moves):
        descent = cdgm.block_descent(blocks)
        ends.append(jax.jit(descent.simultaneous)(descent.init(params), batches[0],
                                                  key))
    assert_equal(ends[0][0].params, ends[1][0].params)
    assert_equal(ends[0][1].grad_norm, ends[1][1].grad_norm)


def test_a_stack_of_one_layer(params, batches, key):
    single = {**params, 'layers': jax.tree.map(lambda x: x[:1], params['layers'])}
    descent = cdgm.block_descent({**outside(), **layers.blocks('layers', 1, loss,
                                                               RULE)})
    joint, _ = jax.jit(descent.simultaneous)(descent.init(single), batches[0], key)
    own, _ = jax.jit(partial(descent.step, block='layers/0'))(
        descent.init(single), batches[0], key)
    assert_equal(joint.params['layers'], own.params['layers'])
    assert jax.tree.leaves(joint.params['layers'])[0].shape[0] == 1


def test_a_schedule_and_a_rule_choose_layers(params, batches, key):
    descent = cdgm.block_descent(whole())
    keys = jax.random.split(key, 12)
    for rule in (cdgm.shuffled((1,) * 6, key),
                 cdgm.selection.gauss_southwell(6, refresh=1)):
        driven = cdgm.drive(descent, rule)
        state, step = driven.init(params), jax.jit(driven.step)
        seen = []
        for its_key in keys:
            state, info = step(state, batches[0], its_key)
            seen.append(int(info.block))
        assert set(seen) <= set(range(6)) and len(set(seen)) > 1
    norms = cdgm.selection.block_grad_norms(descent, params, batches[0], key)
    grads, _ = jax.grad(loss, has_aux=True)(params, batches[0], key)
    assert_equal(norms, jnp.stack(
        [optax.tree.norm(grads['embedding']), optax.tree.norm(grads['head']),
         *(optax.tree.norm(cut(grads['layers'], (), j, 1)) for j in range(DEPTH))]))


@pytest.mark.thorough
def test_seeds_side_by_side(params, batches, key):
    descent = cdgm.block_descent(whole(riders={'layers': SIGN}))
    pair = jax.tree.map(lambda x: jnp.stack([x, x / 2]), params)
    states = jax.vmap(descent.init)(pair)
    moved, _ = jax.jit(jax.vmap(descent.step, (0, None, None, None)))(
        states, batches[0], key, jnp.asarray(3))
    for i, scale in enumerate((1, 2)):
        alone, _ = jax.jit(descent.step)(descent.init(jax.tree.map(
            lambda x: x / scale, params)), batches[0], key, jnp.asarray(3))
        assert_equal(jax.tree.map(lambda x: x[i], moved.params), alone.params)


@pytest.mark.parametrize('words, blocks', [
    ('4 layers are not blocks of 3', lambda: layers.blocks('layers', 4, loss, RULE,
                                                           size=3)),
    ("reach is 'up'", lambda: layers.blocks('layers', 4, loss, RULE, reach='up')),
    ("the stack 'layers' has 5 layers on a leading axis",
     lambda: {**outside(), **layers.blocks('layers', 5, loss, RULE)}),
    ("there is no stack at 'stack'", lambda: {
        **outside(), **layers.blocks('layers', DEPTH, loss, RULE, stack='stack')}),
    ("block 'rest' owns 'layers/attention/kernel' in the stack 'layers'", lambda: {
        **outside(), 'rest': cdgm.Block('layers/attention', loss, RULE),
        **layers.blocks('layers/mlp', DEPTH, loss, RULE, stack='layers')}),
    ('has 3 blocks, and 4 belong to it', lambda: {
        name: block for name, block in whole().items() if name != 'layers/3'}),
    ('which one program serves', lambda: {
        name: block._replace(tx=optax.sgd(1.)) if name == 'layers/2' else block
        for name, block in whole().items()}),
    ("'head' rides with 'layers' and is its companion", lambda: whole(
        riders={'head': optax.sgd(0.1)}, companions=('head',))),
    ("has a companion 'neck'", lambda: whole(companions=('neck',))),
    ('a companion keeps its state', lambda: {
        **whole(companions=('head',)), **outside(ephemeral=True)}),
])
def test_what_cannot_be_is_one_line_before_anything_compiles(words, blocks, params):
    with pytest.raises(ValueError) as caught:
        cdgm.block_descent(blocks()).init(params)
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('block, words', [
    ('layers/9', "unknown block 'layers/9'"), (17, 'block index 17 is out of range'),
    (('layers', 4), "block 4 of the family 'layers' is out of range"),
    (('stack', 0), "unknown family 'stack'")])
def test_a_layer_that_is_not_there(block, words, params, batches, key):
    descent = cdgm.block_descent(whole())
    with pytest.raises(ValueError, match=words):
        descent.step(descent.init(params), batches[0], key, block)


def test_a_loss_that_looks_into_an_open_stack_is_told(params, batches, key):
    def peeping(params, batch, key):
        return jnp.sum(params['layers']['mlp']['bias']), None

    descent = cdgm.block_descent({'rest': cdgm.Block(('embedding', 'head'), peeping,
                                                     RULE),
                                  **layers.blocks('layers', DEPTH, peeping, RULE)})
    with pytest.raises(TypeError, match='reads a stack by cdgm.layers.apply'):
        descent.step(descent.init(params), batches[0], key, 'layers/1')
