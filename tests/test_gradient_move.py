"""Moves: a gradient move is optax on the block's own objective, evaluated once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdgm import Block, block_descent, coordinate_descent
from cdgm.gradient_move import as_move
from cdgm.moves import Evaluation, Move, gradient_move


def objective(x):
    return jnp.sum(jnp.cosh(x) - x), {'mean': jnp.mean(x)}


def test_a_gradient_move_is_an_optax_step():
    x, tx = jnp.asarray([0.3, -1.2]), optax.adam(0.1)
    move = gradient_move(tx)
    moved, state, seen = move.apply(objective, x, move.init(x))
    gradient = np.sinh(x) - 1
    updates, expected = tx.update(jnp.asarray(gradient), tx.init(x), x)
    np.testing.assert_allclose(moved, x + updates, 1e-14)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-14), state, expected)
    np.testing.assert_allclose(seen.loss, np.sum(np.cosh(x) - x), 1e-14)
    np.testing.assert_allclose(seen.grad_norm, np.linalg.norm(gradient), 1e-14)
    np.testing.assert_allclose(seen.aux['mean'], np.mean(x), 1e-14)


def test_a_line_search_gets_the_objective(key):
    """Steps of 100 would diverge; the search finds one that decreases enough.

    It refuses extra arguments that it does not know, so a descent adds none.
    """
    rule = optax.chain(optax.sgd(100.0), optax.scale_by_backtracking_linesearch(20))
    descent = block_descent({'all': Block('', lambda x, *_: objective(x), rule)})
    state, info = jax.jit(lambda x: descent.step(descent.init(x), None, key, 'all'))(
        jnp.asarray([0.3, -1.2]))
    assert objective(state.params)[0] < info.loss


def test_a_gradient_move_evaluates_its_objective_once():
    calls = []

    def counted(x):
        calls.append(x)
        return objective(x)

    move = gradient_move(optax.adam(0.1))
    jax.eval_shape(lambda x: move.apply(counted, x, move.init(x)), jnp.ones(2))
    assert len(calls) == 1


def test_a_move_is_taken_as_it_is():
    move = Move(lambda active: (), lambda objective, active, state, **extra: (
        active, state, Evaluation(*objective(active), jnp.zeros(()))))
    assert as_move(move) is move


@pytest.mark.parametrize('tx, words', [
    (None, 'block .x. is None'), (optax.adam, 'adam .a function: was it meant'),
    ((1, 2), 'is a tuple')])
def test_what_is_no_rule_is_refused_by_the_name_of_the_block(tx, words):
    with pytest.raises(TypeError, match=words):
        as_move(tx, 'x')


def test_sam_takes_none_of_the_extras():
    def sam():
        return optax.contrib.sam(optax.sgd(.1), optax.sgd(.05), sync_period=2)

    move, plain, x = gradient_move(sam()), sam(), jnp.asarray([1.0, 2.0])
    y, state, other = x, move.init(x), plain.init(x)

    def quartic(x):
        return jnp.sum(x ** 4), None

    for _ in range(4):
        x, state, _ = move.apply(quartic, x, state)
        updates, other = plain.update(4 * y ** 3, other, y)
        y = optax.apply_updates(y, updates)
    np.testing.assert_allclose(x, y, rtol=1e-5)


def test_complex_parameters_descend():
    """Of |z - c|^2 a step of 1/4 halves the distance to c."""
    def loss(params, batch, key):
        return jnp.sum(jnp.abs(params['z'] - (1 + 2j)) ** 2), None

    descent = block_descent({'z': Block('z', loss, optax.sgd(0.25))})
    state = descent.init({'z': jnp.array([3 - 1j, 1j])})
    state, _ = descent.step(state, None, None, 'z')
    np.testing.assert_allclose(state.params['z'], [2 + 0.5j, 0.5 + 1.5j], rtol=1e-6)


@pytest.mark.filterwarnings('ignore:.*lookahead')
def test_a_lookahead_is_refused_with_the_reason():
    tx = optax.lookahead(optax.sgd(0.1), 3, 0.5)
    params = {'a': jnp.ones(2), 'b': jnp.ones(2)}
    descent = block_descent({n: Block(n, lambda p, b, k: (0., None), tx) for n in 'ab'})
    for init in descent.init, coordinate_descent(tx, {'a': 'a', 'b': 'b'}).init:
        with pytest.raises(TypeError, match='optax.lookahead takes LookaheadParams'):
            init(params)
