"""Coordinate moves against reverse mode, NumPy, scikit-learn and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear
from sklearn.linear_model import ElasticNet, Lasso

from cdgm import Block, block_descent, shuffled
from cdgm.moves.coordinate import coordinate_lipschitz, coordinate_move
from cdgm.moves.proximal import box, elastic_net, soft_threshold


def least_squares(w, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(y - x @ w)) / 2, None


@pytest.fixture(scope='module')
def problem():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 8)) * np.linspace(0.3, 2, 8)
    y = x @ np.array([2, 0, -1, 0, 0, 3, 0, 0.5]) + 0.1 * rng.standard_normal(60)
    return jnp.asarray(x), jnp.asarray(y)


def solve(problem, prox, key, steps):
    """Visit random permutations of the entries by the block's own schedule."""
    x, _ = problem
    move = coordinate_move(coordinate_lipschitz(x), prox,
                           shuffled((1,) * x.shape[1], key))
    descent = block_descent({'w': Block('', least_squares, move)})

    @jax.jit
    def run(state, batch):
        return jax.lax.scan(lambda s, _: descent.step(s, batch, key, 'w'), state, None,
                            length=steps)

    return run(descent.init(jnp.zeros(x.shape[1])), problem)[0].params


# A block of three leaves beside a frozen one, under a loss that is not linear.

def network_loss(params, batch, key):
    hidden = jnp.tanh(batch @ params['net']['w'] + params['net']['b'][None])
    out = hidden @ params['head']
    return jnp.mean(jnp.square(out)), {'out': jnp.mean(out)}


def network(rng):
    return {'net': {'w': jnp.asarray(rng.standard_normal((3, 4))),
                    'b': jnp.asarray([0.5, -0.0, 0.1, -0.2])},
            'head': jnp.asarray(rng.standard_normal(4))}


def network_descent(lipschitz=2.0):
    return block_descent({
        'net': Block('net', network_loss, coordinate_move(lipschitz)),
        'head': Block('head', network_loss, coordinate_move(1.0))})


def ravelled(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def bits(x):
    return np.asarray(x).view(np.uint64)


def test_moves_one_entry_by_its_partial_derivative(key):
    rng = np.random.default_rng(0)
    params, batch = network(rng), jnp.asarray(rng.standard_normal((5, 3)))
    descent = network_descent()
    state = descent.init(params)
    step = jax.jit(lambda state, entry: descent.step(state, batch, key, 'net',
                                                     entry=entry))
    (loss, aux), grads = jax.jit(jax.value_and_grad(network_loss, has_aux=True))(
        params, batch, key)
    flat, slopes = ravelled(params['net']), ravelled(grads['net'])
    for entry in range(flat.size):
        after, info = step(state, entry)
        expected = flat.copy()
        expected[entry] -= slopes[entry] / 2
        moved = ravelled(after.params['net'])
        np.testing.assert_allclose(moved, expected, atol=1e-15)
        others = np.arange(flat.size) != entry
        np.testing.assert_array_equal(bits(moved)[others], bits(flat)[others])
        np.testing.assert_array_equal(bits(after.params['head']), bits(params['head']))
        np.testing.assert_allclose(info.grad_norm, abs(slopes[entry]), rtol=1e-12)
        np.testing.assert_allclose(info.loss, loss, rtol=1e-14)
        np.testing.assert_allclose(info.aux['net']['out'], aux['out'], rtol=1e-14)


def test_one_step_minimises_over_its_entry(problem, key):
    """With 1 / L_j as stated; N times too short a step, as jaxopt's, fails this."""
    bounds = coordinate_lipschitz(problem[0])
    descent = block_descent({'w': Block('', least_squares, coordinate_move(bounds))})
    step = jax.jit(lambda state: descent.step(state, problem, key, 'w', entry=5))
    state, before = step(descent.init(jnp.ones(8)))
    _, after = step(state)
    np.testing.assert_allclose(after.grad_norm, 0, atol=1e-14)
    np.testing.assert_allclose(before.loss - after.loss,
                               before.grad_norm ** 2 / (2 * bounds[5]), rtol=1e-12)


def test_solves_the_lasso(problem, key):
    """Under a path of penalties in one program, their weights traced."""
    weights = jnp.array([0.2, 1.0, 20.0])
    path = jax.vmap(lambda weight: solve(problem, soft_threshold(weight), key,
                                         steps=800))(weights)
    for weight, w in zip(weights, np.asarray(path)):
        expected = Lasso(alpha=float(weight), fit_intercept=False, tol=1e-14,
                         max_iter=10_000).fit(*map(np.asarray, problem))
        np.testing.assert_allclose(w, expected.coef_, atol=1e-10)
        np.testing.assert_array_equal(w == 0, expected.coef_ == 0)
    assert (path == 0).sum(1).tolist() == sorted((path == 0).sum(1).tolist())
    assert 0 < (path[0] == 0).sum() < 8 == (path[2] == 0).sum()


def test_solves_the_elastic_net(problem, key):
    x, y = problem
    w = solve(problem, elastic_net(0.3 * 0.4, 0.3 * 0.6), key, steps=800)
    expected = ElasticNet(alpha=0.3, l1_ratio=0.4, fit_intercept=False, tol=1e-14,
                          max_iter=10_000).fit(np.asarray(x), np.asarray(y))
    np.testing.assert_allclose(w, expected.coef_, atol=1e-10)


def test_solves_bounded_least_squares(problem, key):
    x, y = problem
    w = solve(problem, box(-0.5, 0.8), key, steps=800)
    expected = lsq_linear(np.asarray(x), np.asarray(y), (-0.5, 0.8), method='bvls',
                          tol=1e-14)
    np.testing.assert_allclose(w, expected.x, atol=1e-10)
    assert w[0] == 0.8 and w[2] == -0.5 and w[5] == 0.8


def test_an_entry_without_curvature_stays(key):
    x = jnp.array([[1.0, 0.0], [2.0, 0.0]])
    descent = block_descent({'w': Block('', least_squares,
                                        coordinate_move(coordinate_lipschitz(x)))})
    state = descent.init(jnp.array([1.0, 7.0]))
    state, info = descent.step(state, (x, jnp.ones(2)), key, 'w', entry=1)
    assert state.params[1] == 7 and jnp.isfinite(info.loss)


def test_a_visit_takes_an_entry_a_step(problem, key):
    descent = block_descent({'w': Block('', least_squares, coordinate_move(5.0))})
    state = descent.init(jnp.ones(8))
    entries = np.array([3, 1, 3, 7])
    batches = jax.tree.map(lambda a: np.stack([a] * 4), problem)
    keys = jax.random.split(key, 4)
    visited, infos = jax.jit(lambda s: descent.visit(s, batches, keys, 'w',
                                                     entry=entries))(state)
    step = jax.jit(lambda s, i: descent.step(s, problem, key, 'w', entry=i))
    for entry in entries:
        state, info = step(state, entry)
    np.testing.assert_allclose(visited.params, state.params, atol=1e-15)
    np.testing.assert_allclose(infos.grad_norm[-1], info.grad_norm, rtol=1e-12)
    assert visited.opt_state['w'].count == 4


def test_a_schedule_counts_the_steps_of_its_block(key):
    """Steps of another block do not advance it, and a saved state resumes."""
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.standard_normal((5, 3)))
    schedule = shuffled((1,) * 16, key)
    descent = block_descent({
        'net': Block('net', network_loss, coordinate_move(2.0, entries=schedule)),
        'head': Block('head', network_loss, coordinate_move(1.0))})
    state = descent.init(network(rng))
    step = jax.jit(lambda state: descent.step(state, batch, key, 'net')[0])
    other = jax.jit(lambda state: descent.step(state, batch, key, 'head', entry=0)[0])
    for entry in jax.jit(jax.vmap(schedule))(np.arange(3)):
        state = other(state)
        before = ravelled(state.params['net'])
        saved = jax.tree.map(np.asarray, state)
        state = step(state)
        after = ravelled(state.params['net'])
        assert np.flatnonzero(before != after).tolist() == [entry]
        jax.tree.map(np.testing.assert_array_equal, step(saved), state)


@pytest.mark.parametrize('entry', [-1, 16, 1000])
def test_a_traced_entry_out_of_range_moves_nothing(entry, key):
    rng = np.random.default_rng(0)
    params, batch = network(rng), jnp.asarray(rng.standard_normal((5, 3)))
    descent = network_descent(jnp.full(16, 2.0))
    state = descent.init(params)
    after, info = jax.jit(descent.step, static_argnums=3)(state, batch, key, 'net',
                                                          entry=entry)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(bits(a), bits(b)),
                 after.params, params)
    assert info.loss == 0 and info.grad_norm == 0


def test_says_what_is_wrong(key):
    params = network(np.random.default_rng(0))
    descent = network_descent()
    state = descent.init(params)
    with pytest.raises(ValueError, match='entry 16 is out of range; the block has 16'):
        descent.step(state, jnp.ones((5, 3)), key, 'net', entry=16)
    with pytest.raises(ValueError, match='no entry to move'):
        descent.step(state, jnp.ones((5, 3)), key, 'net')
    with pytest.raises(ValueError, match=r'shape \(3,\).*16 entries'):
        network_descent(jnp.ones(3)).init(params)
    with pytest.raises(ValueError, match='written for 3 entries, and the block has 16'):
        coordinate_move(1.0, entries=shuffled((1,) * 3, key)).init(params['net'])


@pytest.mark.parametrize('empty', ['a', 'm', 'z'])  # before, between and after
@pytest.mark.parametrize('entry', range(5))
def test_a_leaf_without_entries_is_not_counted(empty, entry, key):
    """f = |p - 1|^2 with L = 4, so an entry moves half of the way to 1."""
    def loss(params, batch, key):
        return sum(jnp.sum((leaf - 1) ** 2) for leaf in params.values()), None

    params = {'k': jnp.zeros(2), 'w': jnp.zeros(3), empty: jnp.zeros((0, 3))}
    descent = block_descent({'all': Block('', loss, coordinate_move(4.0))})
    state, info = jax.jit(lambda s, i: descent.step(s, None, key, 'all', entry=i))(
        descent.init(params), entry)
    moved = np.concatenate([state.params['k'], state.params['w']])
    np.testing.assert_allclose(moved, 0.5 * (np.arange(5) == entry))
    assert state.params[empty].shape == (0, 3)
    assert (info.loss, info.grad_norm) == (5, 2)


@pytest.mark.parametrize('leaf, error, words', [
    (jnp.zeros((0, 3)), ValueError, 'no entry'),
    (jnp.zeros(2, complex), TypeError, "'w' are complex"),
])
def test_a_block_that_has_no_coordinates_is_refused_at_init(leaf, error, words):
    descent = block_descent({'all': Block('', least_squares, coordinate_move(1.0))})
    with pytest.raises(error) as caught:
        descent.init({'w': leaf})
    assert words in str(caught.value) and '\n' not in str(caught.value)


# Cost

def chain_loss(weights, batch, key):
    for w in weights:
        batch = jnp.tanh(batch @ w)
    return jnp.mean(batch), None


def compiled_step(weights, key, selector='', rows=512):
    def loss(params, batch, key):
        return chain_loss([params[name] for name in sorted(params)], batch, key)

    params = {f'{i:02}': w for i, w in enumerate(weights)}
    rest = 'rest' if selector else None
    blocks = {'own': Block(selector, loss, coordinate_move(1.0))}
    if rest:
        blocks[rest] = Block(lambda path: path != selector, loss, coordinate_move(1.0))
    descent = block_descent(blocks)
    state, batch = descent.init(params), jnp.ones((rows, weights[0].shape[0]))
    run = jax.jit(lambda state, batch, entry: descent.step(
        state, batch, key, 'own', entry=entry))
    return run.lower(state, batch, jnp.int32(0)).compile(), loss, params, batch


def flops(compiled):
    return compiled.cost_analysis()['flops']


def test_costs_one_forward_mode_pass(key):
    """Pass and tangent for the last layer; no more than 3 products a layer for all."""
    layers, width, rows = 6, 32, 512
    weights = [jnp.eye(width)] * layers
    product = 2 * rows * width * width
    last, *_ = compiled_step(weights, key, selector=f'{layers - 1:02}')
    assert flops(last) / product == pytest.approx(layers + 1, rel=0.1)
    first, *_ = compiled_step(weights, key, selector='00')
    assert flops(first) / product == pytest.approx(2 * layers, rel=0.1)
    whole, *_ = compiled_step(weights, key)
    # The first layer's input has no tangent.
    assert flops(whole) / product == pytest.approx(3 * layers - 1, rel=0.1)


def recurrent_loss(w, batch, key):
    return jnp.mean(jax.lax.fori_loop(0, batch['steps'],
                                      lambda _, h: jnp.tanh(h @ w), batch['h'])), None


def test_needs_no_reverse_mode(key):
    """A loop whose length is traced has a forward-mode derivative only."""
    w, entry = 0.3 * jnp.eye(3) + 0.1, 5
    batch = {'h': jnp.ones((2, 3)), 'steps': jnp.int32(4)}
    with pytest.raises(ValueError, match='Reverse-mode differentiation does not work'):
        jax.jit(jax.grad(recurrent_loss, has_aux=True))(w, batch, key)
    descent = block_descent({'w': Block('', recurrent_loss, coordinate_move(1.0))})
    step = jax.jit(lambda state: descent.step(state, batch, key, 'w', entry=entry))
    state, info = step(descent.init(w))
    nudge = 1e-6 * jax.nn.one_hot(entry, 9).reshape(3, 3)
    rise = (recurrent_loss(w + nudge, batch, key)[0]
            - recurrent_loss(w - nudge, batch, key)[0])
    np.testing.assert_allclose(w[1, 2] - state.params[1, 2], rise / 2e-6, rtol=1e-8)


def test_keeps_no_activations(key):
    """A longer loop does not need more memory, as it does in reverse mode."""
    def memory(function, steps):
        batch = {'h': jnp.ones((512, 32)), 'steps': steps}
        compiled = jax.jit(lambda w, h: function(w, {**batch, 'h': h})).lower(
            jnp.eye(32), batch['h']).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    descent = block_descent({'w': Block('', recurrent_loss, coordinate_move(1.0))})

    def forward(w, batch):
        return descent.step(descent.init(w), batch, key, 'w', entry=0)

    def reverse(w, batch):
        return jax.grad(recurrent_loss, has_aux=True)(w, batch, key)

    assert memory(forward, 64) == memory(forward, 16)
    assert memory(reverse, 64) > 3 * memory(reverse, 16)


def test_thousands_of_entries_need_no_branches(key):
    """The same program whatever the number of entries, without a conditional."""
    def lines(width):
        step, *_ = compiled_step([jnp.eye(width)], key, rows=4)
        return step.as_text().splitlines()

    few, many = lines(4), lines(100)
    assert not any('conditional(' in line for line in many)
    assert len(many) < 1.2 * len(few)


def test_seeds_share_an_entry_under_vmap(problem, key):
    descent = block_descent({'w': Block('', least_squares, coordinate_move(5.0))})

    def moved(start):
        return descent.step(descent.init(start), problem, key, 'w', entry=2)[0].params

    starts = np.random.default_rng(0).standard_normal((3, 8))
    together, one = jax.jit(jax.vmap(moved))(starts), jax.jit(moved)
    for start, w in zip(starts, together):
        np.testing.assert_allclose(w, one(start), atol=1e-15)
