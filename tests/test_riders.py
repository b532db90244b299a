"""Riders: a joint gradient by hand, whose bits they touch, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import Block, block_descent
from cdgm._explain import program_cost
from cdgm.moves import Move

NAMES = tuple('abcd')
CLIP = 0.05
RULE = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(0.1))
SIGN = optax.chain(optax.scale_by_sign(), optax.scale(-1e-3))
RIDERS = {'c': optax.sgd(0.2), 'd': SIGN}


def loss_fn(params, batch, key):
    for name in NAMES:
        batch = jnp.tanh(batch @ params[name]['w'])
    return jnp.mean(batch ** 2), {'output': jnp.mean(batch)}


def opposed(params, batch, key):
    loss, aux = loss_fn(params, batch, key)
    return -loss, aux


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {name: {'w': jnp.asarray(rng.normal(size=(3, 3))), 'unused': -jnp.zeros(2)}
            for name in NAMES}


@pytest.fixture
def batch():
    return jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))


def descent_with(riders, **options):
    """Block b has riders; d has a loss and a rule of its own."""
    blocks = {name: Block(name, loss_fn, RULE, **options) for name in NAMES}
    blocks['b'] = blocks['b']._replace(riders=riders)
    blocks['d'] = blocks['d']._replace(loss=opposed)
    return block_descent(blocks)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def assert_close(one, other, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol), one, other)


@jax.jit
def by_hand(params, opt_state, batch):
    """Block b by its clipped rule, c and d along: (params, its state, its norm)."""
    grads = jax.grad(lambda params: loss_fn(params, batch, None)[0])(params)
    updates, opt_state = RULE.update(grads['b'], opt_state, params['b'])
    moved = {
        'a': params['a'], 'b': optax.apply_updates(params['b'], updates),
        'c': jax.tree.map(lambda x, g: x - 0.2 * g, params['c'], grads['c']),
        'd': jax.tree.map(lambda x, g: x - 1e-3 * jnp.sign(g), params['d'], grads['d'])}
    return moved, opt_state, optax.tree.norm(grads['b'])


@pytest.mark.parametrize('traced', [False, True])
def test_a_step_is_the_joint_gradient_by_hand_and_the_rest_keeps_its_bits(
        traced, params, batch, key):
    descent = descent_with(RIDERS)
    start = descent.init(params)
    step = jax.jit(descent.step, static_argnums=() if traced else 3)
    state, own = start, RULE.init(params['b'])
    for _ in range(3):
        params, own, norm = by_hand(params, own, batch)
        state, info = step(state, batch, key, 1 if traced else 'b')
        assert_close((state.params, jax.tree.leaves(state.opt_state['b']),
                      info.grad_norm), (params, jax.tree.leaves(own), norm))
        assert norm > CLIP  # so that what is clipped matters
    assert int(info.block) == 1 and int(state.count) == 3
    others = [(state.opt_state[name], start.opt_state[name]) for name in 'acd']
    for now, then in [(state.params['a'], start.params['a']), *others]:
        assert bits(now) == bits(then)
    # Riding is one way: a step of c moves c alone.
    after, _ = jax.jit(descent.step, static_argnums=3)(state, batch, key, 'c')
    for name in NAMES:
        same = bits(after.params[name]) == bits(state.params[name])
        assert same == (name != 'c')


def test_riders_move_along_at_each_step_of_a_visit(params, batch, key):
    """Also where the part of the loss that no active leaf enters is run once."""
    descent = descent_with(RIDERS, ephemeral=True)
    start = descent.init(params)
    batches, keys = jnp.stack([batch] * 3), jax.random.split(key, 3)
    own = RULE.init(params['b'])
    for _ in range(3):
        params, own, norm = by_hand(params, own, batch)

    @jax.jit
    def runs(start):
        return (descent.visit(start, batches, keys, 'b'),
                descent.visit(start, batch, key, 1, steps=3),
                descent.cycle(start, batches, keys, 'bbb', stacked=True))

    for state, infos in runs(start):
        assert_close((state.params, infos.grad_norm[-1]), (params, norm))


def test_without_riders_the_program_is_what_it_was(params, batch, key):
    """Also that of a block whose neighbours have riders."""
    plain, riding = descent_with({}), descent_with(RIDERS)

    def program(descent, name):
        return str(jax.make_jaxpr(lambda *data: descent.step(*data, name))(
            plain.init(params), batch, key))

    assert program(plain, 'c') == program(riding, 'c')
    assert program(plain, 'b') != program(riding, 'b')


def test_nobody_rides_in_a_simultaneous_step(params, batch, key):
    plain, riding = descent_with({}), descent_with(RIDERS)
    programs = [str(jax.make_jaxpr(d.simultaneous)(plain.init(params), batch, key))
                for d in (plain, riding)]
    assert programs[0] == programs[1]


def test_seeds_ride_in_one_program(params, batch, key):
    descent = descent_with(RIDERS)
    seeds = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)

    @jax.jit
    def run(seeds, block):
        return jax.vmap(lambda params: descent.step(
            descent.init(params), batch, key, block)[0].params)(seeds)

    many = run(seeds, jnp.int32(1))
    for i in range(2):
        start, moved = (jax.tree.map(lambda x: x[i], tree) for tree in (seeds, many))
        assert_close(moved, by_hand(start, RULE.init(start['b']), batch)[0])


def test_a_line_search_sees_the_active_block_alone(params, batch, key):
    """Its steps are those it takes when nobody rides, and it is given extras."""
    rule = optax.chain(optax.sgd(10.), optax.scale_by_backtracking_linesearch(20))

    def step(riders):
        descent = block_descent({'a': Block('a', loss_fn, rule, riders=riders),
                                 'rest': Block(NAMES[1:], loss_fn, RULE)})
        return jax.jit(lambda params: descent.step(
            descent.init(params), batch, key, 'a')[0])(params)

    alone, along = step({}), step({'rest': optax.sgd(0.1)})
    assert_close(along.params['a'], alone.params['a'])
    assert_close(along.opt_state['a'], alone.opt_state['a'])
    assert np.any(along.params['b']['w'] != alone.params['b']['w'])


LENGTH, SIZE, BATCH = 16, 128, 256
LAYERS = [f'layer{i}' for i in range(LENGTH)]


def chain_loss(params, x, key):
    for name in LAYERS:
        x = x @ params[name]
    return jnp.mean(jnp.square(x)), None


@pytest.mark.parametrize('i, first', [
    (0, 1), (7, 8), (14, 15), pytest.param(12, 4, id='one in front')])
@pytest.mark.sample(1)
def test_a_rider_costs_one_product(i, first):
    """In products of a layer, all layers from `first` on ride with layer i."""
    riders = dict.fromkeys(set(LAYERS[first:]) - {LAYERS[i]}, optax.sgd(0.1))
    descent = block_descent({
        name: Block(name, chain_loss, optax.sgd(0.1), riders=riders)
        if name == LAYERS[i] else Block(name, chain_loss, optax.sgd(0.1))
        for name in LAYERS})
    state = jax.eval_shape(descent.init, {
        name: jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32) for name in LAYERS})
    data = state, jax.ShapeDtypeStruct((BATCH, SIZE), jnp.float32), jax.eval_shape(
        lambda: jax.random.key(0))

    def products(run):
        return program_cost(run, *data).flops / (2 * BATCH * SIZE ** 2)

    deepest, moving = min(i, first), 1 + len(riders)
    step = products(lambda *data: descent.step(*data, LAYERS[i]))
    assert step == pytest.approx(2 * LENGTH - deepest - 1 + moving, rel=0.005)
    if first == i + 1:
        assert step == pytest.approx(3 * LENGTH - 2 * i - 1, rel=0.005)
        # The prefix, and five suffixes.
        visit = products(lambda *data: descent.visit(*data, LAYERS[i], steps=5))
        assert visit == pytest.approx(i + 5 * (3 * (LENGTH - i) - 1), rel=0.005)


MOVE = cdgm.moves.exact_minimisation()


@pytest.mark.parametrize('words, changed', [
    ("block 'b' has a rider 'x'; blocks that can ride with it are ['a', 'c', 'd']",
     {'riders': {'x': optax.sgd(0.1)}}),
    ("block 'b' has a rider 'b'; blocks that can", {'riders': {'b': optax.sgd(0.1)}}),
    ("a rider's tx keeps no state: that of 'c', which rides with 'b', keeps 2",
     {'riders': {'c': optax.sgd(0.1, momentum=0.9)}}),
    ("a rider's tx keeps no state: that of 'c', which rides with 'b', keeps 1",
     {'riders': {'c': optax.sgd(optax.linear_schedule(0.1, 0., 9))}}),
    ("block 'b' has riders or companions and a Move for a tx",
     {'riders': RIDERS, 'tx': MOVE}),
])
def test_what_cannot_ride_is_one_line_at_init(words, changed, params):
    blocks = {name: Block(name, loss_fn, RULE) for name in NAMES}
    blocks['b'] = blocks['b']._replace(**changed)
    assert isinstance(MOVE, Move)
    descent = block_descent(blocks)
    with pytest.raises(ValueError) as caught:
        descent.init(params)
    assert words in str(caught.value) and '\n' not in str(caught.value)
