"""What users give by mistake: each is refused in one line that says what to do.

Beside the cases in `test_descent`, `test_blocks` and `test_transform`: whole kinds of
arguments, on both faces. What is right, if unusual, is tried here too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import Block, block_descent, coordinate_descent

TX = optax.sgd(0.25)
PARAMS = {'a': jnp.array([3.0, 1.0]), 'b': jnp.ones(3)}
LABELS = {'a': 'a', 'b': 'b'}


def loss(params, batch, key):
    return sum(jnp.sum(x ** 2) for x in params.values()), None


def with_state(params, model_state, batch, key):
    return loss(params, batch, key)[0], (None, model_state)


def descent_of(one=loss, tx=TX, **options):
    return block_descent({name: Block(name, one, tx, **options) for name in 'ab'})


DESCENT = descent_of()
STATE = DESCENT.init(PARAMS)


def refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('tx, words', [
    (None, 'is None; give an optax'), (optax.adam, 'is adam (a function: was it meant'),
    (cdgm.cyclic((1, 1)), 'is a Schedule'), (0.1, 'is a float'),
    (cdgm.selection.plateau(2, patience=1), 'is a SelectionRule'),
    (lambda grads: grads, 'is <lambda>'), (lambda: {'a': TX}, 'is <lambda>')])
def test_what_is_no_tx(tx, words):
    refused(lambda: descent_of(tx=tx), TypeError, f"the tx of block 'a' {words}")
    refused(lambda: coordinate_descent({'b': TX, 'a': tx}, LABELS), TypeError,
            f"the tx of block 'a' {words}")
    refused(lambda: coordinate_descent(tx, LABELS), TypeError, f'the tx {words}')


def test_a_move_is_for_a_descent():
    refused(lambda: coordinate_descent(cdgm.moves.exact_minimisation(), LABELS),
            TypeError, 'the tx is a Move; give an optax transformation')


@pytest.mark.parametrize('blocks, words', [
    ([Block('a', loss, TX)], 'the blocks are a list; give a mapping'),
    ({'a': 'a'}, "block 'a' is a str; give cdgm.Block"),
    ({'a': ('a', loss, TX)}, "block 'a' is a tuple; give cdgm.Block"),
    ({'a': TX}, "block 'a' is a GradientTransformationExtraArgs"),
    ({'a': Block('a', None, TX)}, "the loss of block 'a' is None; give a function"),
    ({'a': Block('a', loss, TX, riders='b')}, "the riders of block 'a' are 'b'"),
    ({0: Block('a', loss, TX)}, 'the name of a block is 0; give a string')])
def test_what_is_no_block(blocks, words):
    refused(lambda: block_descent(blocks), TypeError, words)


@pytest.mark.parametrize('state, error, words', [
    (PARAMS, TypeError, 'the state is a dict; give the DescentState'),
    ((STATE,), TypeError, 'the state is a tuple'),
    (cdgm.drive(DESCENT, cdgm.cyclic((1, 1))).init(PARAMS), TypeError,
     'the state is a SelectedDescentState; give the DescentState'),
    (STATE._replace(opt_state={'a': (), 'c': ()}), ValueError,
     "made for the blocks ['a', 'c'], and those that keep one are ['a', 'b']")])
def test_what_is_no_state(state, error, words):
    for call in (lambda: DESCENT.step(state, None, None, 'a'),
                 lambda: DESCENT.step(state, None, None, jnp.int32(0)),
                 lambda: DESCENT.cycle(state, None, None, 'ab'),
                 lambda: DESCENT.simultaneous(state, None, None)):
        refused(call, error, words)


@pytest.mark.parametrize('call, error, words', [
    (lambda: DESCENT.cycle(STATE, None, None, 0), TypeError, 'the blocks are 0; give'),
    (lambda: DESCENT.simultaneous(STATE, None, None, 1), TypeError,
     'the blocks are 1; give a sequence'),
    (lambda: DESCENT.cycle(STATE, None, None, [0.5]), TypeError, 'the block is 0.5'),
    (lambda: jax.eval_shape(lambda i: DESCENT.cycle(STATE, None, None, [i]), 0),
     TypeError, 'the block is traced, where a name or a Python index is needed'),
    (lambda: jax.eval_shape(lambda n: DESCENT.visit(STATE, None, None, 'a', steps=n),
                            2), TypeError, 'give a Python integer, static under jit'),
    (lambda: DESCENT.visit(STATE, None, None, 'a', steps=2.0), TypeError,
     'steps is 2.0; give a Python integer'),
    (lambda: coordinate_descent(TX, {'a': 1, 'b': 0}).update(
        PARAMS, coordinate_descent({1: TX, 0: TX}, {'a': 1, 'b': 0}).init(PARAMS),
        PARAMS, block=[0.5]), TypeError, 'the block is 0.5'),
    (lambda: coordinate_descent({1: TX, 0: TX}, {'a': 1, 'b': 0}).update(
        PARAMS, coordinate_descent({1: TX, 0: TX}, {'a': 1, 'b': 0}).init(PARAMS),
        PARAMS, block=1), ValueError, "block 1 is a name and another one's index")])
def test_what_names_no_block(call, error, words):
    refused(call, error, words)


@pytest.mark.parametrize('descent, model_state, words', [
    (descent_of(with_state), None,
     'takes (params, model_state, batch, key) and is called with (params, batch, key), '
     'for init was given no model state'),
    (DESCENT, jnp.ones(()), 'for init was given a model state'),
    (descent_of(lambda params, batch: (0., None)), None, 'takes (params, batch) and')])
def test_a_loss_of_other_arguments(descent, model_state, words):
    state = descent.init(PARAMS, model_state)
    for block in 'a', jnp.int32(0):
        refused(lambda: descent.step(state, None, None, block), TypeError, words)


@pytest.mark.parametrize('value, seen', [
    (jnp.int32(1), 'int32'), (1, 'a int'), (1j, 'a complex'), (None, 'a NoneType'),
    ('x', 'a str'), (jnp.complex64(1), 'complex64'), (jnp.bool_(True), 'bool')])
def test_what_is_no_loss(value, seen):
    descent = descent_of(lambda params, batch, key: (value, None))
    refused(lambda: descent.step(STATE, None, None, 'a'), TypeError,
            f"loss of block 'a' is {seen}; a loss is a real floating scalar")


def test_what_is_no_rider():
    descent = block_descent({'a': Block('a', loss, TX, riders={'b': None}),
                             'b': Block('b', loss, TX)})
    refused(lambda: descent.init(PARAMS), TypeError, "the tx of block 'b' is None")


@pytest.mark.parametrize('aux', [{'name': 'a'}, [object()], {'f': jnp.sum}])
def test_what_is_no_aux(aux):
    descent = descent_of(lambda params, batch, key: (loss(params, batch, key)[0], aux))
    for block in 'a', jnp.int32(0):
        refused(lambda: descent.step(STATE, None, None, block), TypeError,
                "loss of block 'a' returned an aux with '")


def test_what_is_no_model_state():
    refused(lambda: DESCENT.init(PARAMS, {'n': jnp.ones(()), 'name': 'x'}), TypeError,
            "'name' of the state is a str; give arrays")


def test_indices_of_every_kind_name_blocks():
    want = DESCENT.step(STATE, None, None, 'b')[0]
    for block in (1, np.int64(1), jnp.int32(1), np.array(1)):
        state, info = DESCENT.step(STATE, None, None, block)
        assert info.block == 1
        jax.tree.map(np.testing.assert_array_equal, state, want)
    for order in ('b', ['b'], (np.int64(1),), [jnp.int32(1)]):
        state, info = DESCENT.cycle(STATE, None, None, order)
        assert info.block.tolist() == [1]
        jax.tree.map(np.testing.assert_array_equal, state, want)


def test_an_order_may_be_the_name_of_one_block():
    descent = block_descent({'all': Block('', loss, TX)})
    state, info = descent.cycle(descent.init(PARAMS), None, None, 'all')
    assert info.block.tolist() == [0]
    np.testing.assert_allclose(state.params['a'], PARAMS['a'] / 2, 1e-12)


def test_a_descent_may_be_a_static_argument():
    traces = []

    def step(descent, state):
        traces.append(descent)
        return descent.step(state, None, None, 'a')[0]

    run = jax.jit(step, static_argnums=0)
    run(DESCENT, run(DESCENT, STATE))
    assert traces == [DESCENT] and DESCENT != descent_of() and DESCENT in {DESCENT}


def test_a_fresh_state_of_coordinate_descent_may_be_donated():
    """L-BFGS keeps the parameters, and the same zeros twice."""
    tx = coordinate_descent(optax.lbfgs(linesearch=None), LABELS,
                            schedule=cdgm.cyclic((1, 1)))
    params = jax.tree.map(jnp.copy, PARAMS)
    update = jax.jit(lambda grads, state, params: tx.update(grads, state, params),
                     donate_argnums=1)
    updates, state = update(params, tx.init(params), params)
    updates, state = update(params, state, params)
    assert params['a'].tolist() == [3, 1] and int(state.count) == 2


@pytest.mark.parametrize('rule', [
    cdgm.selection.plateau(2, patience=1),
    cdgm.selection.gauss_southwell(2, refresh=1, lipschitz=(1., 2.)),
    cdgm.selection.aggressive(2, 0, 1)])
def test_a_fresh_state_of_a_rule_may_be_donated(rule):
    driven = cdgm.drive(DESCENT, rule)
    step = jax.jit(driven.step, donate_argnums=0)
    for _ in range(2):  # the rule begins anew, of buffers of its own
        state, _ = step(driven.init(PARAMS), None, None)
        state, _ = step(state, None, None)
    assert int(state.descent.count) == 2
