import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Ridge

import cdgm
from cdgm.moves import LinearFit, layer_inputs, least_squares

RNG = np.random.default_rng(3)
INPUTS = RNG.normal(size=(40, 4))
OUTPUTS = INPUTS @ RNG.normal(size=(4, 2)) + RNG.normal(size=(40, 2))


def loss(params, batch, key):
    inputs, outputs = batch
    layer = params['net']['last']
    error = outputs - inputs @ layer['kernel'] - layer['bias'][None]
    return jnp.mean(jnp.sum(error ** 2, axis=1)) / 2, (LinearFit(inputs, outputs), 7.)


def start(**settings):
    descent = cdgm.block_descent({
        'last': cdgm.Block('net/last', loss, least_squares(**settings)),
        'rest': cdgm.Block(lambda path: 'last' not in path, loss, optax.sgd(1.))})
    layer = {'kernel': jnp.zeros((4, 2)), 'bias': jnp.zeros(2)}
    return descent, descent.init({'net': {'first': jnp.ones(3), 'last': layer}})


@pytest.mark.parametrize('ridge', [0., 0.3])
def test_a_step_is_the_ridge_regression_of_its_batch(ridge):
    descent, state = start(ridge=ridge)
    state, info = descent.step(state, (INPUTS, OUTPUTS), None, 'last')
    # scikit-learn's penalty is not averaged over the examples.
    best = Ridge(alpha=len(INPUTS) * ridge).fit(INPUTS, OUTPUTS)
    layer = state.params['net']['last']
    np.testing.assert_allclose(layer['kernel'], best.coef_.T, rtol=1e-10)
    np.testing.assert_allclose(layer['bias'], best.intercept_, rtol=1e-10)
    assert info.aux == {'last': 7}
    slopes = jax.grad(lambda p: loss(p, (INPUTS, OUTPUTS), None)[0])(
        start()[1].params)['net']['last']
    np.testing.assert_allclose(info.grad_norm, optax.tree.norm(slopes), rtol=1e-10)


def test_minibatches_are_weighed_by_their_age():
    decay = 0.5
    descent, state = start(decay=decay)
    step = jax.jit(lambda state, *batch: descent.step(state, batch, None, 'last')[0])
    for at in range(4):
        state = step(state, INPUTS[10 * at:10 * at + 10], OUTPUTS[10 * at:10 * at + 10])
    ages = np.repeat(decay ** np.arange(4)[::-1], 10)
    best = Ridge(alpha=0).fit(INPUTS, OUTPUTS, sample_weight=ages)
    np.testing.assert_allclose(state.params['net']['last']['kernel'], best.coef_.T,
                               rtol=1e-9)


def test_too_few_examples_leave_the_layer_and_what_was_seen():
    descent, state = start()
    after, info = jax.jit(lambda state: descent.step(
        state, (INPUTS[:3], OUTPUTS[:3]), None, 'last'))(state)
    assert info.block == -1
    np.testing.assert_array_equal(after.params['net']['last']['kernel'], 0)
    again, info = descent.step(after, (INPUTS, OUTPUTS), None, 'last')
    one, _ = descent.step(state, (INPUTS, OUTPUTS), None, 'last')
    np.testing.assert_array_equal(again.params['net']['last']['kernel'],
                                  one.params['net']['last']['kernel'])


@pytest.mark.parametrize('width', [1, 3, 4, 9])
def test_inputs_of_a_net_are_found_at_any_width(width):
    inputs = RNG.normal(size=(5, 4))
    found = layer_inputs(lambda p: (inputs @ p['kernel'] + p['bias'][None])[..., None],
                         jnp.asarray(RNG.normal(size=(4, width))), jnp.ones(width))
    np.testing.assert_array_equal(found, inputs)


def test_what_is_not_a_layer_is_refused():
    descent = cdgm.block_descent({'all': cdgm.Block('', loss, least_squares())})
    with pytest.raises(ValueError, match=r"net/first': \(3,\)"):
        descent.init(start()[1].params)
    with pytest.raises(ValueError, match='ridge is -1'):
        least_squares(ridge=-1)
    with pytest.raises(ValueError, match='decay is 1'):
        least_squares(decay=1)


def test_a_traced_choice_of_the_block_makes_the_same_step():
    descent, state = start(ridge=0.1)
    batch = (INPUTS, OUTPUTS)
    named, _ = descent.step(state, batch, None, 'last')
    step = jax.jit(lambda state, block: descent.step(state, batch, None, block))
    traced, info = step(state, jnp.int32(0))
    np.testing.assert_allclose(traced.params['net']['last']['kernel'],
                               named.params['net']['last']['kernel'], rtol=1e-12)
    assert info.aux['last'] == 7
