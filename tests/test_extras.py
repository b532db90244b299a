"""Which extras a transformation takes: what optax's own do with them, and what is said.

Oracle: a transformation that certainly takes none of a name gives the same updates, or
a TypeError of its own, with and without the extra.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import cdgm
from cdgm.extras import takes

ADAM = optax.adam(1e-3)


def with_extras(update):
    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def reader(updates, state, params=None, **extra):
    return jax.tree.map(lambda g: -extra['rate'] * g, updates), state


def named(updates, state, params=None, *, rate=0.1, **extra):
    del extra
    return jax.tree.map(lambda g: -rate * g, updates), state


def nested(updates, state, params=None, **extra):
    def scaled(g):
        return -extra.get('rate', 0.1) * g
    return jax.tree.map(scaled, updates), state


@functools.wraps(named)
def wrapper(*args, **kwargs):
    return named(*args, **kwargs)


PASSED_ON = {
    'chain': optax.chain(ADAM, optax.scale(0.5)),
    'named_chain': optax.named_chain(('adam', ADAM)),
    'masked': optax.masked(ADAM, {'a': True}),
    'partition': optax.partition({'a': ADAM}, {'a': 'a'}),
    'apply_if_finite': optax.apply_if_finite(ADAM, 3),
    'nested': optax.chain(optax.masked(optax.chain(ADAM, ADAM), {'a': True})),
    'average_params': optax.chain(ADAM, cdgm.transforms.average_params(0.9)),
}


@pytest.mark.parametrize('name', PASSED_ON)
def test_an_extra_that_nobody_in_a_chain_takes_is_known(name):
    tx, params = PASSED_ON[name], {'a': jnp.ones(2)}
    assert takes(tx, 'blok') is False
    plain, _ = tx.update(params, tx.init(params), params)
    given, _ = tx.update(params, tx.init(params), params, blok='a')
    assert (plain['a'] == given['a']).all()
    # The same, with somebody inside who does take it.
    assert takes(optax.chain(tx, with_extras(named)), 'rate') is True


@pytest.mark.parametrize('update, known', [
    (reader, None), (named, False), (nested, None), (wrapper, None),
    (jax.jit(named), None), (functools.partial(reader, params=None), None)])
def test_a_name_in_the_code_is_taken_and_no_other_is_certain(update, known):
    tx = with_extras(update)
    if not isinstance(update, functools.partial):
        assert takes(tx, 'rate') is True
    assert takes(tx, 'blok') is known
    assert takes(optax.chain(tx, ADAM), 'blok') is known
    assert takes(cdgm.moves.gradient_move(tx).apply, 'blok') is known


@pytest.mark.parametrize('tx, key', [
    (contrib.sophia(0.1), 'obj_fn'), (optax.lbfgs(), 'value_fn'),
    (optax.chain(ADAM, contrib.reduce_on_plateau()), 'value'),
    (optax.polyak_sgd(), 'value'), (cdgm.moves.coordinate_move(1.0).apply, 'entry'),
    (cdgm.moves.gradient_move(with_extras(named)).apply, 'rate')])
def test_what_is_named_is_taken(tx, key):
    assert takes(tx, key) is True


@pytest.mark.parametrize('tx', [
    optax.inject_hyperparams(optax.adam)(0.1), optax.MultiSteps(ADAM, 2),
    contrib.schedule_free(optax.sgd(0.1), 0.1)])
def test_what_cannot_be_told_is_not(tx):
    assert takes(tx, 'rate') is None


def loss(params, batch, key):
    return jnp.sum(params['a'] ** 2 * params['b']), None


def descent_of(tx, other=ADAM):
    descent = cdgm.block_descent({'a': cdgm.Block('a', loss, tx),
                                  'b': cdgm.Block('b', loss, other)})
    return descent, descent.init({'a': jnp.ones(2), 'b': jnp.ones(2)})


@pytest.mark.parametrize('tx', [ADAM, optax.MultiSteps(ADAM, 2), with_extras(named)])
@pytest.mark.parametrize('call, words', [
    (lambda d, s: d.step(s, None, None, 'a', blok='b'),
     "step got 'blok', which the tx of no block takes; was block= meant?"),
    (lambda d, s: d.step(s, None, None, jnp.int32(0), blok='b'), "step got 'blok'"),
    (lambda d, s: d.visit(s, None, None, 'a', steps=2, fresh_key=True),
     'was fresh_keys= meant?'),
    (lambda d, s: cdgm.drive(d, cdgm.cyclic((1, 1))).step(
        cdgm.selection.SelectedDescentState(s, jnp.int32(0)), None, None, blok=1),
     "step got 'blok'")])
def test_a_misspelt_argument_of_a_descent_is_refused(tx, call, words):
    with pytest.raises(TypeError) as caught:
        call(*descent_of(tx))
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('tx', [ADAM, optax.MultiSteps(ADAM, 2),
                                optax.inject_hyperparams(optax.adam)(0.1)])
def test_a_misspelt_block_of_coordinate_descent_is_refused(tx):
    params = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    cd = cdgm.coordinate_descent(tx, {'a': 'a', 'b': 'b'}, schedule=cdgm.cyclic((1, 1)))
    with pytest.raises(TypeError, match="update got 'blok', .*; was block= meant"):
        cd.update(params, cd.init(params), params, blok='b')


def test_an_extra_is_for_the_blocks_that_take_it():
    """The other block's tx ignores it; in a named step of that block too."""
    descent, state = descent_of(with_extras(named), ADAM)
    after, _ = descent.step(state, None, None, 'a', rate=0.5)
    assert (after.params['a'] == 1 - 0.5 * 2).all()
    with_it, _ = descent.step(state, None, None, 'b', rate=0.5)
    without, _ = descent.step(state, None, None, 'b')
    assert (with_it.params['b'] == without.params['b']).all()
    with pytest.raises(TypeError, match="step got 'entri'"):
        descent.step(state, None, None, 'a', entri=0)
