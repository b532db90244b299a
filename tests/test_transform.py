"""The optax face: which leaves it moves, whose state it touches, and how it composes.

That it equals stock optax and the descent face (guarantee 1) is in `test_descent`.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import cdgm

LABELS = {'a': 'a', 'b': 'b'}
RULES = {
    'sgd': optax.sgd(0.1),
    'adamw with clipping': optax.chain(optax.clip_by_global_norm(0.1),
                                       optax.adamw(1e-2, weight_decay=0.1)),
}


@pytest.fixture
def params():
    return {'a': {'w': jnp.arange(6.).reshape(2, 3), 'zero': jnp.asarray([0.0, -0.0])},
            'b': jnp.asarray([-0.0, 2.0, -3.0])}


@pytest.fixture
def grads(params):
    return jax.tree.map(lambda x: jnp.sin(1 + x), params)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def by_cycle(rules=optax.sgd(0.1), labels=LABELS, visits=(1, 1)):
    return cdgm.coordinate_descent(rules, labels, schedule=cdgm.cyclic(visits))


@pytest.mark.parametrize('rule', RULES)
def test_guarantee_2_inactive_leaves_and_their_state_keep_their_bits(
        rule, params, grads):
    tx = by_cycle(RULES[rule])

    @jax.jit
    def run(grads, params):
        state = tx.init(params)
        for _ in range(2):
            updates, after = tx.update(grads, state, params)
            params, before, state = optax.apply_updates(params, updates), params, after
        return before, params, after

    before, after, state = run(grads, params)
    assert bits(after['a']) == bits(before['a'])
    assert not np.any(after['b'] == before['b'])
    wild = {**grads, 'a': jax.tree.map(lambda g: 1e6 * g, grads['a'])}
    one_step = jax.jit(lambda grads, state: tx.update(grads, state, params, block='b'))
    start = tx.init(params)
    tame, touched = one_step(grads, start)
    assert bits(one_step(wild, start)) == bits((tame, touched))
    assert bits(touched.inner_states['a']) == bits(start.inner_states['a'])
    assert np.signbit(np.concatenate([x.ravel() for x in jax.tree.leaves(tame['a'])])
                      ).all()


def test_guarantee_3_one_block_is_plain_optax_bit_for_bit(params, grads):
    for rule in RULES.values():
        tx = by_cycle(rule, jax.tree.map(lambda _: 'all', params), (1,))

        @jax.jit
        def both(params, grads):
            return (tx.update(grads, tx.init(params), params)[0],
                    rule.update(grads, rule.init(params), params)[0])

        ours, stock = both(params, grads)
        assert bits(ours) == bits(stock)


def test_guarantee_3_named_is_traced_is_scheduled_bit_for_bit(params, grads):
    tx = by_cycle(RULES['adamw with clipping'])
    state = tx.init(params)
    update = jax.jit(lambda block: tx.update(grads, state, params, block=block))
    scheduled = jax.jit(lambda: tx.update(grads, state, params))()
    for block in ('a', 0, np.int32(0)):
        named = jax.jit(lambda: tx.update(grads, state, params, block=block))()
        assert bits(named) == bits(scheduled)
    assert bits(update(jnp.int32(0))) == bits(scheduled)
    assert bits(update(jnp.int32(1))) != bits(scheduled)


def test_a_scheduled_step_holds_no_second_copy_of_the_states():
    """One conditional a block, through which pass that block's own arrays alone."""
    names = [f'layer{i}' for i in range(8)]
    tx = cdgm.coordinate_descent(optax.adam(0.1), {name: name for name in names},
                                 schedule=cdgm.cyclic([1] * len(names)))

    def step(params, state, grads, block=None):
        updates, state = tx.update(grads, state, params, block=block)
        return optax.apply_updates(params, updates), state

    def compiled(step, params):
        return jax.jit(step, donate_argnums=(0, 1)).lower(
            params, jax.eval_shape(tx.init, params), params).compile()

    params = dict.fromkeys(names, jax.ShapeDtypeStruct((64, 64), float))
    leaf = 8 * 64 * 64  # bytes; the states have 16
    program = compiled(step, params)
    assert program.memory_analysis().temp_size_in_bytes < 12 * leaf
    assert program.as_text().count(' conditional(') == len(names)
    named = compiled(lambda *data: step(*data, block='layer3'), params)
    assert named.as_text().count(' conditional(') == 0
    assert named.memory_analysis().temp_size_in_bytes < leaf


def test_a_traced_index_out_of_range_moves_nothing(params, grads):
    tx = by_cycle(optax.adam(0.1))
    state = tx.init(params)
    update = jax.jit(lambda block: tx.update(grads, state, params, block=block))
    for bad in (-1, 2):
        updates, after = update(bad)
        assert bits(optax.apply_updates(params, updates)) == bits(params)
        assert bits(after.inner_states) == bits(state.inner_states)


@pytest.mark.parametrize('block', [('b', 'a'), [0, 'c'], np.array([True, False, True]),
                                   jnp.array([False, True, True]), jnp.zeros(3, bool)])
def test_several_blocks_move_from_one_point(block):
    params = {name: jnp.asarray([1.0, -0.0]) * i for i, name in enumerate('abc', 1)}
    grads = jax.tree.map(lambda x: jnp.cos(x) + 1, params)
    adam = optax.adam(0.1)
    named = dict(zip('abc', (False,) * 3))
    if isinstance(block, tuple | list):
        moves = {**named, **{'abc'[b] if b == 0 else b: True for b in block}}
    else:
        moves = dict(zip('abc', block.tolist()))
    by_schedule = cdgm.coordinate_descent(adam, {k: k for k in 'abc'},
                                          schedule=lambda count: block)
    told = cdgm.coordinate_descent(adam, {k: k for k in 'abc'})
    for updates, state in (
            jax.jit(lambda: by_schedule.update(
                grads, by_schedule.init(params), params))(),
            jax.jit(lambda: told.update(grads, told.init(params), params,
                                        block=block))()):
        for name in 'abc':
            count = int(state.inner_states[name][0].count)
            assert count == moves[name]
            want = (adam.update(grads[name], adam.init(params[name]))[0]
                    if moves[name] else jnp.full(2, -0.0))
            np.testing.assert_allclose(updates[name], want, 1e-12)


@pytest.mark.parametrize('block', [jnp.ones(()), jnp.arange(2), jnp.ones(3, bool), 0.5])
def test_what_is_no_block_is_refused(block, params, grads):
    tx = by_cycle()
    with pytest.raises(TypeError, match='give a name or an index, an integer scalar'):
        tx.update(grads, tx.init(params), params, block=block)


def test_blocks_are_counted_in_the_order_of_the_rules(params, grads):
    given = by_cycle({'b': optax.sgd(0.1), 'a': optax.sgd(0.1)})
    alphabetical = by_cycle(optax.sgd(0.1))
    for tx, first in ((given, 'b'), (alphabetical, 'a')):
        updates, _ = tx.update(grads, tx.init(params), params)
        moved = {name: np.any(np.stack(jax.tree.leaves(
            jax.tree.map(jnp.any, part)))) for name, part in updates.items()}
        assert moved == {name: name == first for name in 'ab'}


def test_labels_may_be_a_function_of_the_parameters(params, grads):
    def labels(tree):
        return cdgm.blocks.label(tree, {'a': 'a', 'b': 'b'})

    tx, same = by_cycle(labels=labels), by_cycle()
    one, other = (t.update(grads, t.init(params), params)[0] for t in (tx, same))
    assert bits(one) == bits(other)


def test_it_chains_scans_and_vmaps_like_any_other(params, grads):
    """Half the step by a chain equals half the rate; a seed axis changes nothing."""
    chained = optax.chain(by_cycle(optax.sgd(0.2)), optax.scale(0.5))
    plain = by_cycle(optax.sgd(0.1))

    def run(tx, params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None
        return lax.scan(body, (params, tx.init(params)), length=3)[0][0]

    @jax.jit
    def both(params):
        seeds = jax.tree.map(lambda x: jnp.stack([x, x]), params)
        return jax.vmap(lambda p: run(chained, p))(seeds), run(plain, params)

    stacked, expected = both(params)
    jax.tree.map(lambda s, e: np.testing.assert_allclose(s, jnp.stack([e, e]), 1e-12),
                 stacked, expected)
    np.testing.assert_allclose(expected['a']['w'],
                               params['a']['w'] - 0.2 * grads['a']['w'], 1e-12)


def test_extra_arguments_reach_the_rule(params, grads):
    tx = by_cycle(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()))
    _, state = jax.jit(lambda: tx.update(grads, tx.init(params), params, value=0.25))()
    assert state.inner_states['a'][1].best_value == 0.25
    assert state.inner_states['b'][1].best_value == np.inf


def test_a_rule_may_compute_in_another_width():
    params = {'a': jnp.ones(2, jnp.bfloat16), 'b': jnp.ones(2)}
    tx = by_cycle(optax.adam(0.1, mu_dtype=jnp.float32))
    updates, _ = jax.jit(lambda: tx.update(params, tx.init(params)))()
    plain, _ = optax.adam(0.1, mu_dtype=jnp.float32).update(
        params['a'], optax.adam(0.1, mu_dtype=jnp.float32).init(params['a']))
    assert updates['a'].dtype == plain.dtype == jnp.float32
    assert updates['b'].dtype == float


@pytest.mark.parametrize('error, words, write', [
    (ValueError, 'written for 3 blocks, and there are 2: ', dict(visits=(1, 1, 1))),
    (ValueError, "the labels name blocks ['a', 'b'], and there are txs for ['a']",
     dict(rules={'a': optax.sgd(0.1)})),
    (ValueError, "and there are txs for ['a', 'b', 'c']",
     dict(rules=dict.fromkeys('abc', optax.sgd(0.1)))),
    (ValueError, "without a label are 'b'; labels without a leaf are 'c'",
     dict(labels={'a': 'a', 'c': 'b'})),
])
def test_errors_at_init_are_one_line(error, words, write, params):
    with pytest.raises(error) as caught:
        by_cycle(**write).init(params)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_an_integer_leaf_is_an_error_at_init():
    with pytest.raises(TypeError, match="'b' is int64; parameters are floating"):
        by_cycle().init({'a': np.ones(2), 'b': np.arange(2)})


def test_an_unknown_block_is_an_error_before_anything_compiles(params, grads):
    tx = by_cycle()
    state = tx.init(params)
    with pytest.raises(ValueError, match="unknown block 'c'; blocks are 'a', 'b'"):
        jax.eval_shape(lambda: tx.update(grads, state, params, block='c'))


@pytest.mark.parametrize('block', [None, 'a'])
def test_bfloat16_params_with_float32_gradients_update_as_plain_optax_does(block):
    params = {'a': jnp.ones(2, jnp.bfloat16), 'b': jnp.ones(2, jnp.bfloat16)}
    grads = {'a': jnp.asarray([0.1, 0.3]), 'b': jnp.ones(2)}
    tx, plain = by_cycle(optax.adam(0.1)), optax.adam(0.1)
    updates, _ = jax.jit(lambda: tx.update(
        grads, tx.init(params), params, block=block))()
    want, _ = jax.jit(lambda: plain.update(
        grads['a'], plain.init(params['a']), params['a']))()
    assert updates['a'].dtype == want.dtype and bits(updates['a']) == bits(want)


@pytest.mark.parametrize('block', [None, 'a'])
def test_per_example_gradients_become_one_update(block):
    params = {'a': jnp.ones(2), 'b': jnp.ones(3)}
    grads = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 4 * x]), params)
    rule = optax.contrib.differentially_private_aggregate(100.0, 0.0, 0)
    tx = by_cycle(rule)
    updates, _ = jax.jit(lambda: tx.update(grads, tx.init(params), params,
                                           block=block))()
    np.testing.assert_allclose(updates['a'], np.full(2, 7 / 3), rtol=1e-6)
    assert bits(updates['b']) == bits(jnp.full(3, -0.0))


def test_functions_of_the_whole_tree_reach_a_rule_as_functions_of_its_block():
    params = {'a': jnp.asarray([3.0, -2.0]), 'b': jnp.asarray([1.0, 4.0])}

    def loss(p):
        return jnp.sum(p['a'] ** 4) + jnp.sum(p['a'] * p['b'])

    tx, plain = by_cycle(optax.lbfgs()), optax.lbfgs()
    value, grads = jax.value_and_grad(loss)(params)
    updates, _ = jax.jit(lambda: tx.update(
        grads, tx.init(params), params, block='a', value=value, grad=grads,
        value_fn=loss))()
    want, _ = jax.jit(lambda: plain.update(
        grads['a'], plain.init(params['a']), params['a'], value=value, grad=grads['a'],
        value_fn=lambda a: loss({**params, 'a': a})))()
    np.testing.assert_allclose(updates['a'], want, rtol=1e-6)


def test_a_misspelt_extra_is_named(params, grads):
    tx = by_cycle(optax.scale(-0.1))
    with pytest.raises(TypeError, match="update got 'blok'"):
        tx.update(grads, tx.init(params), params, blok='a')


@pytest.mark.parametrize('txs', [optax.adam(0.1), {'a': optax.adam(0.1),
                                                   'b': optax.sgd(0.1, 0.9)}])
def test_map_params_reaches_the_moments_and_not_the_counts(txs, params):
    tx = by_cycle(txs)
    state = optax.tree.map_params(tx, lambda x: x + 5, tx.init(params))
    adam = state.inner_states['a'][0]
    assert int(state.count) == int(adam.count) == 0
    assert bits(adam.mu) == bits(adam.nu)
    assert all((x == 5).all() for x in jax.tree.leaves(adam.mu))


def test_callable_labels_are_labels(params, grads):
    @jax.tree_util.register_pytree_node_class
    class Labels(dict):
        def __call__(self):
            raise AssertionError('labels were called')

        def tree_flatten(self):
            return tuple(self.values()), tuple(self)

        @classmethod
        def tree_unflatten(cls, keys, leaves):
            return cls(zip(keys, leaves))

    params = Labels(params)
    tx = by_cycle(labels=Labels(a='a', b='b'))
    updates, _ = tx.update(Labels(grads), tx.init(params), params)
    np.testing.assert_allclose(updates['a']['w'], -0.1 * grads['a']['w'], rtol=1e-6)


def test_selectors_and_enum_labels_name_blocks(params, grads):
    names = enum.Enum('names', ['a', 'b'])
    by_enum = by_cycle({names.a: optax.sgd(0.1), names.b: optax.sgd(0.1)},
                       {'a': names.a, 'b': names.b})
    by_selector = cdgm.coordinate_descent(
        optax.sgd(0.1), selectors={'a': 'a', 'b': ['b']})
    want, _ = by_cycle().update(grads, by_cycle().init(params), params)
    for tx, block in (by_enum, names.a), (by_selector, 'a'):
        updates, _ = tx.update(grads, tx.init(params), params, block=block)
        assert bits(updates) == bits(want)


def test_a_schedule_is_a_function_or_left_out(params, grads):
    tx = cdgm.coordinate_descent(optax.sgd(0.1), LABELS, schedule=lambda count: count)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert bits(updates['b']) == bits(jnp.full(3, -0.0))
    with pytest.raises(TypeError, match='the schedule is'):
        cdgm.coordinate_descent(optax.sgd(0.1), LABELS, schedule=(1, 1))
    tx = cdgm.coordinate_descent(optax.sgd(0.1), LABELS)
    with pytest.raises(ValueError, match='there is no schedule'):
        tx.update(grads, tx.init(params), params)


def test_it_stands_masked_injected_and_empty(params, grads):
    tx = optax.masked(by_cycle(), {'a': True, 'b': False})
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates['a']['w'], -0.1 * grads['a']['w'], rtol=1e-6)
    assert bits(updates['b']) == bits(grads['b'])
    tx = optax.inject_hyperparams(cdgm.coordinate_descent, static_args='schedule')(
        optax.sgd(0.1), LABELS, schedule=cdgm.cyclic((1, 1)))
    updates, state = tx.update(grads, tx.init(params), params)
    assert bits(updates['b']) == bits(jnp.full(3, -0.0)) and not state.hyperparams
    tx = by_cycle()
    assert tx.update({}, tx.init({}), {})[0] == {}


def test_labels_of_what_a_partition_hides_need_no_tx():
    """LISA: an embedding that always moves, two layers in turn; Adam by hand."""
    params = {'emb': jnp.ones(2), 'l0': jnp.ones(2), 'l1': jnp.ones(2)}
    grads = {'emb': jnp.array([1., 2.]), 'l0': jnp.ones(2), 'l1': -jnp.ones(2)}
    adam = optax.adam(0.1)
    layers = cdgm.coordinate_descent(
        dict.fromkeys(('l0', 'l1'), adam), {'emb': '-', 'l0': 'l0', 'l1': 'l1'},
        schedule=cdgm.cyclic((1, 1)))
    tx = optax.partition({'always': adam, 'turn': layers},
                         {'emb': 'always', 'l0': 'turn', 'l1': 'turn'})
    state, states = tx.init(params), {name: adam.init(params[name]) for name in params}
    for step in range(4):
        updates, state = tx.update(grads, state, params)
        for name in params:
            if name in ('emb', f'l{step % 2}'):
                wanted, states[name] = adam.update(grads[name], states[name])
                np.testing.assert_allclose(updates[name], wanted, rtol=1e-12)
            else:
                assert not updates[name].any()
