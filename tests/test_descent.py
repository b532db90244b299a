"""Block descent: guarantees 1, 2, 3, 5, 6 and 7, cycles, Jacobi steps and bad input.

A small noisy autoencoder, x ~ decoder(tanh(encoder(x)) + noise); the oracle is stock
optax in float64.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax

import cdgm
from cdgm import Block, block_descent

RULES = {
    'sgd': optax.sgd(0.1),
    'adam': optax.adam(1e-2),
    'adamw with clipping': optax.chain(optax.clip_by_global_norm(0.1),
                                       optax.adamw(1e-2, weight_decay=0.1)),
}
NAMES = ('encoder', 'decoder')
LABELS = {name: name for name in NAMES}


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {'encoder': {'w': jnp.asarray(rng.normal(size=(3, 2))),
                        'b': jnp.asarray([-0.0, 0.5])},
            'decoder': {'w': jnp.asarray(rng.normal(size=(2, 3))),
                        'b': jnp.asarray([-0.0, 0.0, 0.3])}}


@pytest.fixture
def batches():
    """float64[8, 4, 3], eight minibatches."""
    return jnp.asarray(np.random.default_rng(1).normal(size=(8, 4, 3)))


@pytest.fixture
def keys(key):
    return jax.random.split(key, 8)


def loss_fn(params, batch, key):
    latent = jnp.tanh(batch @ params['encoder']['w'] + params['encoder']['b'][None])
    # A noise that depends on the key and compiles faster than a generator.
    latent += 0.1 * jnp.sin(jax.random.key_data(key)[1].astype(float))
    output = latent @ params['decoder']['w'] + params['decoder']['b'][None]
    return jnp.mean((output - batch) ** 2), {'latent': jnp.mean(latent)}


def adversary(params, batch, key):
    """A second loss, whose aux has another form."""
    loss, _ = loss_fn(params, batch, key)
    return -loss, (jnp.zeros(2, int), loss)


def two_blocks(rule, loss=loss_fn, **options):
    return block_descent({name: Block(name, loss, rule, **options) for name in NAMES})


def of_the_active(info, name):
    """What a traced step reports of the block that moved, as a named step has it."""
    return info._replace(aux={name: info.aux[name]})


def assert_same_bits(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(
        np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8)),
        jax.tree.map(jnp.atleast_1d, one), jax.tree.map(jnp.atleast_1d, other))


def assert_close(one, other, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, rtol), one, other)


def stock_optax(rule, index):
    """What optax has for one block a step; `index` is count -> block."""
    return optax.partition({
        name: optax.conditionally_mask(rule, lambda step, i=i: index(step) == i)
        for i, name in enumerate(NAMES)}, LABELS)


@pytest.mark.parametrize('rule', RULES)
def test_guarantee_1_both_faces_are_stock_optax(rule, params, batches, keys):
    rule = RULES[rule]
    descent = two_blocks(rule)

    @jax.jit
    def run(order, params):
        schedule = cdgm.Schedule(lambda count: order[count], 2, 3)
        faces = [cdgm.coordinate_descent(dict.fromkeys(NAMES, rule), LABELS,
                                         schedule=schedule),
                 stock_optax(rule, schedule)]

        def body(carry, data):
            state, *others = carry
            state, _ = descent.step(state, *data, schedule(state.count))
            moved = []
            for tx, (params, opt_state) in zip(faces, others):
                grads, _ = jax.grad(loss_fn, has_aux=True)(params, *data)
                updates, opt_state = tx.update(grads, opt_state, params)
                moved.append((optax.apply_updates(params, updates), opt_state))
            return (state, *moved), (state.params, *(p for p, _ in moved))

        carry = descent.init(params), *((params, tx.init(params)) for tx in faces)
        return lax.scan(body, carry, (batches, keys))[1]

    for schedule in (cdgm.cyclic((2, 1)), cdgm.shuffled((2, 1), jax.random.key(5))):
        order = jax.vmap(schedule)(jnp.arange(8))
        descended, transformed, oracle = run(order, params)
        assert_close(descended, oracle)
        assert_close(transformed, oracle)


@pytest.mark.parametrize('rule', RULES)
def test_guarantee_2_inactive_leaves_and_their_state_keep_their_bits(
        rule, params, batches, keys):
    def scaled(factor):
        """The same loss, whose gradient in the inactive block is scaled."""
        def loss(params, batch, key):
            wild = jax.tree.map(lambda x: optax.scale_gradient(x, factor),
                                params['encoder'])
            return loss_fn({**params, 'encoder': wild}, batch, key)
        return two_blocks(RULES[rule], loss)

    @jax.jit
    def run(params):
        tame, wild = scaled(1), scaled(1e6)
        before, _ = tame.step(tame.init(params), batches[0], keys[0], 'encoder')
        return before, *(d.step(before, batches[1], keys[1], block)
                         for d, block in ((tame, 'decoder'), (wild, 'decoder'),
                                          (tame, jnp.int32(1))))

    before, (after, info), *others = run(params)
    assert np.signbit(params['encoder']['b'][0])
    assert_same_bits(after.params['encoder'], before.params['encoder'])
    assert_same_bits(after.opt_state['encoder'], before.opt_state['encoder'])
    assert not np.any(after.params['decoder']['w'] == before.params['decoder']['w'])
    for other, other_info in others:
        assert_same_bits(other, after)
        assert_same_bits(of_the_active(other_info, 'decoder'), info)


@pytest.mark.parametrize('block', ['encoder', 0])
def test_guarantee_2_holds_for_negative_zero(block, params, batches, keys):
    params['decoder'] = jax.tree.map(lambda x: -jnp.zeros_like(x), params['decoder'])
    descent = two_blocks(optax.adamw(1e-2))
    block = block if isinstance(block, str) else jnp.int32(block)
    state, _ = jax.jit(lambda params: descent.step(
        descent.init(params), batches[0], keys[0], block))(params)
    assert_same_bits(state.params['decoder'], params['decoder'])


@pytest.mark.parametrize('rule', RULES)
def test_guarantee_3_one_block_is_plain_optax_bit_for_bit(rule, params, batches, keys):
    tx = RULES[rule]
    descent = block_descent({'all': Block('', loss_fn, tx)})

    def plain(carry, data):
        params, opt_state = carry
        grads, _ = jax.grad(loss_fn, has_aux=True)(params, *data)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def ours(params):
        state, _ = lax.scan(lambda state, data: descent.step(state, *data, 'all'),
                            descent.init(params), (batches, keys))
        return state.params, state.opt_state['all']

    @jax.jit
    def stock(params):
        return lax.scan(plain, (params, tx.init(params)), (batches, keys))[0]

    assert_same_bits(ours(params), stock(params))


def test_guarantee_3_named_is_traced_bit_for_bit_and_a_visit_is_its_steps(
        params, batches, keys):
    descent = block_descent({
        'encoder': Block('encoder', loss_fn, optax.adam(1e-2)),
        'decoder': Block('decoder', adversary, optax.adam(0.1), ephemeral=True)})
    start = jax.jit(descent.init)(params)
    batches, keys = batches[:3], keys[:3]
    named, traced = jax.jit(descent.step, static_argnums=3), jax.jit(descent.step)
    visit_named = jax.jit(descent.visit, static_argnums=3)
    visit_traced = jax.jit(descent.visit)

    def steps(step, block):
        state, infos = start, []
        for data in zip(batches, keys):
            state, info = step(state, *data, block)
            infos.append(info)
        return state, jax.tree.map(lambda *xs: np.stack(xs), *infos)

    for index, name in enumerate(NAMES):
        state, infos = steps(named, name)
        assert (infos.block == index).all() and int(state.count) == 3
        other, its = steps(traced, index)
        assert_same_bits((other, of_the_active(its, name)), (state, infos))
        visited = visit_named(start, batches, keys, name)
        other, its = visit_traced(start, batches, keys, index)
        assert_same_bits((other, of_the_active(its, name)), visited)
        if name == 'encoder':  # ephemeral state lasts a visit, not a step
            # XLA may add in another order inside a loop, so the last bit is free.
            assert_close(visited, (state, infos), rtol=1e-14)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = jnp.tanh(linen.Dense(3, param_dtype=float)(x))
        return linen.Dense(1, param_dtype=float)(hidden)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(2, 3, param_dtype=float, rngs=rngs)
        self.last = nnx.Linear(3, 1, param_dtype=float, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def linen_net(first, last):
    params = {'params': {'Dense_0': {'kernel': first[0], 'bias': first[1]},
                         'Dense_1': {'kernel': last[0], 'bias': last[1]}}}
    return params, LinenNet().apply, ('params/Dense_0', 'params/Dense_1')


def nnx_net(first, last):
    model = NnxNet(nnx.Rngs(0))
    for layer, (kernel, bias) in ((model.first, first), (model.last, last)):
        layer.kernel[...], layer.bias[...] = kernel, bias
    graph, params = nnx.split(model, nnx.Param)
    return params, lambda params, x: nnx.merge(graph, params)(x), ('first', 'last')


def equinox_net(first, last):
    model = eqx.nn.MLP(2, 1, 3, 1, jnp.tanh, key=jax.random.key(0))
    model = eqx.tree_at(lambda m: [x for n in m.layers for x in (n.weight, n.bias)],
                        model, [first[0].T, first[1], last[0].T, last[1]])
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return (params, lambda params, x: jax.vmap(eqx.combine(params, static))(x),
            ('layers/0', 'layers/1'))


def tuple_net(first, last):
    def apply(params, x):
        (w, b), (v, c) = params
        return jnp.tanh(x @ w + b[None]) @ v + c[None]
    return (first, last), apply, ('0', '1')


@pytest.fixture(scope='module')
def loss_curve():
    """net -> losses of coordinate descent from the same initial values."""
    rng = np.random.default_rng(2)
    first, last = [(jnp.asarray(rng.normal(size=shape)), jnp.zeros(shape[1]))
                   for shape in ((2, 3), (3, 1))]
    inputs = jnp.asarray(rng.normal(size=(16, 2)))
    targets = jnp.sin(inputs.sum(1, keepdims=True))

    @functools.cache
    def curve(net):
        params, apply, owned = net(first, last)

        def squares(params, batch, key):
            return jnp.mean((apply(params, inputs) - targets) ** 2), None

        descent = block_descent({
            name: Block(leaves, squares, optax.adam(0.1))
            for name, leaves in zip(('first', 'last'), owned)})
        state, infos = jax.jit(lambda state: lax.scan(
            lambda state, _: descent.step(state, None, None, state.count % 2), state,
            length=8))(descent.init(params))
        assert jax.tree.structure(state.params) == jax.tree.structure(params)
        return infos.loss

    return curve


@pytest.mark.parametrize('net', [linen_net, nnx_net, equinox_net])
def test_guarantee_5_the_same_code_trains_any_pytree(net, loss_curve):
    losses = loss_curve(net)
    assert losses[-1] < 0.7 * losses[0]
    np.testing.assert_allclose(losses, loss_curve(tuple_net), 1e-12)


@pytest.mark.thorough
def test_guarantee_6_two_learning_rates_share_one_executable(params, batches, keys):
    @jax.jit
    def built_inside(learning_rate):
        descent = two_blocks(optax.sgd(learning_rate))
        state, _ = descent.step(descent.init(params), batches[0], keys[0], 'encoder')
        return state.params

    descent = two_blocks(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    step = jax.jit(descent.step, static_argnums=3)

    def injected(learning_rate):
        state = descent.init(params)
        state.opt_state['encoder'].hyperparams['learning_rate'] = learning_rate
        return step(state, batches[0], keys[0], 'encoder')[0].params

    grads, _ = jax.grad(loss_fn, has_aux=True)(params, batches[0], keys[0])
    for learning_rate in (0.1, 0.3):
        moved = jax.tree.map(lambda x, g: x - learning_rate * g, params, grads)
        expected = {**params, 'encoder': moved['encoder']}
        assert_close(built_inside(learning_rate), expected)
        assert_close(injected(jnp.asarray(learning_rate)), expected)
    assert built_inside._cache_size() == step._cache_size() == 1


def test_guarantee_7_ephemeral_state_is_reset_at_each_visit(params, batches, keys):
    tx = optax.adam(0.1)
    descent = two_blocks(tx, ephemeral=True)
    order = ('encoder', 'encoder', 'decoder', 'encoder')
    visits = (('encoder', 0, 2), ('decoder', 2, 3), ('encoder', 3, 4))

    @jax.jit
    def by_hand(params):
        for name, start, stop in visits:
            opt_state = tx.init(params[name])
            for i in range(start, stop):
                grads, _ = jax.grad(loss_fn, has_aux=True)(params, batches[i], keys[i])
                updates, opt_state = tx.update(grads[name], opt_state)
                moved = optax.apply_updates(params[name], updates)
                params = {**params, name: moved}
        return params

    @jax.jit
    def by_visits(params):
        state = descent.init(params)
        for name, start, stop in visits:
            state, _ = descent.visit(state, batches[start:stop], keys[start:stop], name)
        return state

    @jax.jit
    def by_sweep(params):
        return descent.cycle(descent.init(params), batches[:4], keys[:4], order,
                             stacked=True)[0]

    expected = by_hand(params)
    for run in (by_visits, by_sweep):
        state = run(params)
        assert state.opt_state == {}
        assert_close(state.params, expected)


@pytest.mark.parametrize('shared', [True, False])
def test_a_sweep_is_steps_in_turn(shared, params, batches, keys):
    descent = two_blocks(optax.adam(1e-2))
    order = ('decoder', 1, 'encoder')

    @jax.jit
    def in_turn(params):
        state, infos = descent.init(params), []
        for i, name in enumerate(order):
            i = 0 if shared else i
            state, info = descent.step(state, batches[i], keys[i], name)
            infos.append(info)
        aux = {name: jax.tree.map(lambda *xs: jnp.stack(xs), *(
            info.aux[name] for info in infos if name in info.aux)) for name in NAMES}
        return state, jax.tree.map(lambda *xs: jnp.stack(xs), *(
            info._replace(aux={}) for info in infos))._replace(aux=aux)

    @jax.jit
    def swept(params):
        data = (batches[0], keys[0]) if shared else (batches[:3], keys[:3])
        return descent.cycle(descent.init(params), *data, order, stacked=not shared)

    assert_close(swept(params), in_turn(params))


def test_a_sweep_takes_keys_of_the_old_kind_or_none(params, batches):
    def loss(params, batch, key):
        return loss_fn(params, batch, jax.random.key(0) if key is None else key)

    descent = two_blocks(optax.sgd(0.1), loss)
    state, old = descent.init(params), jax.random.PRNGKey(0)
    for batch, key in ((batches[0], old), (batches[:2], jnp.stack([old, old])),
                       (batches[0], None)):
        _, infos = jax.eval_shape(lambda: descent.cycle(
            state, batch, key, NAMES, stacked=key is not None and key.ndim == 2))
        assert infos.loss.shape == (2,)


@pytest.mark.parametrize('rule', ['sgd', 'adam'])
def test_simultaneous_is_a_joint_step(rule, params, batches, keys):
    descent, joint = two_blocks(RULES[rule]), block_descent(
        {'all': Block('', loss_fn, RULES[rule])})

    @jax.jit
    def run(params):
        both = descent.init(params), joint.init(params)
        for data in zip(batches[:3], keys[:3]):
            both = (descent.simultaneous(both[0], *data)[0],
                    joint.step(both[1], *data, 'all')[0])
        return both

    state, expected = run(params)
    assert_close(state.params, expected.params)
    assert int(state.count) == 3


def test_simultaneous_is_gradient_descent_ascent_for_two_losses(keys):
    def game(x, y):
        return 0.5 * x**2 + x * y - 0.5 * y**2

    descent = block_descent({
        'x': Block('x', lambda p, _, __: (game(p['x'], p['y']), None), optax.sgd(0.1)),
        'y': Block('y', lambda p, _, __: (-game(p['x'], p['y']), p['x']),
                   optax.sgd(0.2), ephemeral=True)})
    x, y = 1.0, 2.0
    state = descent.init({'x': x, 'y': y})
    step = jax.jit(descent.simultaneous)
    for _ in range(5):
        loss = game(x, y)
        state, info = step(state, None, keys[0])
        x, y = x - 0.1 * (x + y), y + 0.2 * (x - y)
        assert_close(state.params, {'x': x, 'y': y})
        np.testing.assert_allclose(info.loss, [loss, -loss], 1e-14)
    assert info.block.tolist() == [0, 1]


@pytest.mark.parametrize('blocks', [('a', 'c'), ('c', 'a'), (np.int64(2), 'a')])
def test_two_of_three_blocks_move_from_one_point(blocks, key):
    """As LISA has it: a block at every step, and one of the layers with it."""
    def loss(params, batch, key):
        x = jnp.tanh(jnp.tanh(batch @ params['a']) @ params['b']) @ params['c']
        return jnp.mean((x - 1) ** 2), None

    tx = optax.adam(1e-2)
    descent = block_descent({name: Block(name, loss, tx) for name in 'abc'})
    params = {name: jax.random.normal(jax.random.fold_in(key, i), (3, 3))
              for i, name in enumerate('abc')}
    state, batch = descent.init(params), jnp.ones((2, 3))
    step = jax.jit(lambda state: descent.simultaneous(state, batch, None, blocks))

    inner, want = {name: tx.init(params[name]) for name in 'ac'}, params
    for _ in range(3):
        value, grads = jax.value_and_grad(lambda p: loss(p, batch, None)[0])(want)
        for name in 'ac':
            update, inner[name] = tx.update(grads[name], inner[name])
            want = {**want, name: want[name] + update}
        state, info = step(state)
        np.testing.assert_allclose(info.loss, [value, value], 1e-13)
    assert_close(state.params, want)
    assert_same_bits(state.params['b'], params['b'])
    assert info.block.tolist() == [{'a': 0, 'c': 2}.get(b, 2) for b in blocks]
    assert int(state.count) == 3 and not state.opt_state['b'][0].count


def test_info_reports_the_loss_before_the_step_and_the_blocks_own_norm(
        params, batches, keys):
    descent = block_descent({'encoder': Block('encoder', loss_fn, optax.sgd(0.1)),
                             'decoder': Block('decoder', adversary, optax.sgd(0.1))})
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        params, batches[0], keys[0])
    _, info = descent.step(descent.init(params), batches[0], keys[0], 'encoder')
    np.testing.assert_allclose(info.loss, loss, 1e-14)
    np.testing.assert_allclose(info.grad_norm, optax.tree.norm(grads['encoder']))
    assert_close(info.aux['encoder'], aux)
    assert list(info.aux) == ['encoder']


def test_a_traced_index_out_of_range_moves_nothing_and_says_so(params, batches, keys):
    descent = two_blocks(optax.adam(1e-2))
    state = jax.jit(descent.init)(params)
    step, visit = jax.jit(descent.step), jax.jit(descent.visit)
    for bad in (-1, 2):
        moved, info = step(state, batches[0], keys[0], bad)
        visited, infos = visit(state, batches, keys, bad)
        assert_same_bits((moved, visited), (state, state))
        assert int(info.block) == -1 and infos.block.tolist() == [-1] * 8
        assert info.loss == 0 and not infos.aux['encoder']['latent'].any()


def test_extra_arguments_reach_the_rule(params, batches, keys):
    def update(updates, state, params=None, *, factor, **extra):
        return jax.tree.map(lambda g: -factor * g, updates), state

    rule = optax.GradientTransformationExtraArgs(lambda params: (), update)
    descent, plain = two_blocks(rule), two_blocks(optax.sgd(0.1))
    factors = jnp.full(8, 0.1)

    @jax.jit
    def run(params, block):
        ours, stock = descent.init(params), plain.init(params)
        return (descent.step(ours, batches[0], keys[0], block, factor=0.1)[0],
                plain.step(stock, batches[0], keys[0], block)[0],
                descent.visit(ours, batches, keys, block, factor=factors)[0],
                plain.visit(stock, batches, keys, block)[0])

    stepped, one, visited, other = run(params, 1)
    assert_close((stepped.params, visited.params), (one.params, other.params))


def test_parameters_may_be_of_mixed_width(batches, keys):
    params = {'encoder': {'w': jnp.eye(3, 2, dtype=jnp.bfloat16), 'b': jnp.ones(2)},
              'decoder': {'w': jnp.ones((2, 3), jnp.float32), 'b': jnp.zeros(3)}}
    descent = two_blocks(optax.adam(0.1, mu_dtype=jnp.float32))
    state = jax.jit(descent.init)(params)
    state, infos = jax.jit(lambda state: lax.scan(
        lambda state, data: descent.step(state, *data, state.count % 2), state,
        (batches, keys)))(state)
    assert jax.tree.map(lambda x: x.dtype, state.params) == jax.tree.map(
        lambda x: x.dtype, params)
    assert infos.loss[-1] < infos.loss[0]


def non_scalar(params, batch, key):
    return (batch @ params['encoder']['w']).sum(1), None


def without_aux(params, batch, key):
    return loss_fn(params, batch, key)[0]


@pytest.mark.parametrize('error, words, blocks, act', [
    (ValueError, "unknown block 'critic'; blocks are 'encoder', 'decoder'", {},
     lambda d, s, b, k: d.step(s, b[0], k[0], 'critic')),
    (ValueError, "unknown block 'critic'", {},
     lambda d, s, b, k: d.cycle(s, b[0], k[0], ('encoder', 'critic'))),
    (ValueError, 'block index 2 is out of range', {},
     lambda d, s, b, k: d.step(s, b[0], k[0], 2)),
    (ValueError, 'block index -1 is out of range', {},
     lambda d, s, b, k: d.visit(s, b, k, np.int64(-1))),
    (ValueError, 'the order of a cycle is empty', {},
     lambda d, s, b, k: d.cycle(s, b[0], k[0], ())),
    (ValueError, "to move from one point are ['encoder', 'encoder']; name", {},
     lambda d, s, b, k: d.simultaneous(s, b[0], k[0], ('encoder', 0))),
    (ValueError, 'to move from one point are []; name', {},
     lambda d, s, b, k: d.simultaneous(s, b[0], k[0], ())),
    (TypeError, 'the block is float64[]; give a name', {},
     lambda d, s, b, k: d.step(s, b[0], k[0], jnp.ones(()))),
    (TypeError, 'the block is int64[2]; give a name', {},
     lambda d, s, b, k: d.visit(s, b, k, jnp.arange(2))),
    (TypeError, 'the block is None; give a name', {},
     lambda d, s, b, k: d.step(s, b[0], k[0], None)),
    (ValueError, 'seen is key (2,); give one, or say stacked=True', {},
     lambda d, s, b, k: d.cycle(s, b[0], k[:2], NAMES)),
    (ValueError,
     '2 updates, and its minibatches and keys are batch (8, 4, 3), key (8,)', {},
     lambda d, s, b, k: d.cycle(s, b, k, NAMES, stacked=True)),
    (ValueError, 'may be one minibatch or one an update; say stacked=', {},
     lambda d, s, b, k: d.cycle(s, b[:2], None, NAMES)),
    (TypeError, "loss of block 'encoder' was given no key and failed", {},
     lambda d, s, b, k: d.visit(s, b, None, 'encoder')),
    (ValueError, 'a visit of -1 steps', {},
     lambda d, s, b, k: d.visit(s, b[0], k[0], 'encoder', steps=-1)),
    (ValueError, 'seen is key (8,); give one, or say fresh_keys=True', {},
     lambda d, s, b, k: d.visit(s, b[0], k, 'encoder', steps=8)),
    (ValueError, 'batch None, key None. Stack them', {},
     lambda d, s, b, k: d.visit(s, None, None, 'encoder')),
    (ValueError, "loss of block 'encoder' has shape (4,)", {'loss': non_scalar},
     lambda d, s, b, k: d.step(s, b[0], k[0], 'encoder')),
    (ValueError, "loss of block 'encoder' has shape (4,)", {'loss': non_scalar},
     lambda d, s, b, k: d.step(s, b[0], k[0], jnp.int32(1))),
    (TypeError, "loss of block 'encoder' returned", {'loss': without_aux},
     lambda d, s, b, k: d.step(s, b[0], k[0], jnp.int32(0))),
    (TypeError, "loss of block 'encoder' returned", {'loss': without_aux},
     lambda d, s, b, k: d.simultaneous(s, b[0], k[0])),
])
def test_bad_calls_are_one_line_before_anything_compiles(
        error, words, blocks, act, params, batches, keys):
    descent = block_descent({
        'encoder': Block('encoder', loss_fn, optax.sgd(0.1))._replace(**blocks),
        'decoder': Block('decoder', loss_fn, optax.sgd(0.1))})
    state = descent.init(params)
    with pytest.raises(error) as caught:  # `eval_shape` traces and compiles nothing
        jax.eval_shape(lambda: act(descent, state, batches, keys))
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('error, words, leaves, changed', [
    (ValueError, 'no block owns 2 leaves', {'encoder': 'encoder'}, {}),
    (ValueError, "'decoder/b' is owned by", {'all': '', 'decoder': 'decoder'}, {}),
    (ValueError, "block 'decoder' owns no leaf", {'all': '', 'decoder': 'dec'}, {}),
    (TypeError, "'decoder' is int64; parameters are floating", {'all': ''},
     {'decoder': np.arange(3)}),
    (TypeError, "'decoder' is a function; parameters are floating", {'all': ''},
     {'decoder': loss_fn}),
])
def test_bad_blocks_are_one_line_at_init(error, words, leaves, changed, params):
    descent = block_descent({name: Block(own, loss_fn, optax.sgd(0.1))
                             for name, own in leaves.items()})
    with pytest.raises(error) as caught:
        descent.init({**params, **changed})
    assert words in str(caught.value) and '\n' not in str(caught.value)
