"""Exact minimisation against NumPy's least squares and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import Block, block_descent
from cdgm.moves.exact import check_quadratic, exact_minimisation

SOLVERS = {'dense': exact_minimisation(), 'iterated': exact_minimisation(dense_up_to=0)}


def layer_loss(params, batch, key):
    x, y = batch
    out = x @ params['kernel'] + params['bias'][None]
    return jnp.mean(jnp.sum(jnp.square(y - out), axis=1)) / 2, {'out': out[0, 0]}


def layer(rng, inputs=4, outputs=3):
    return {'kernel': jnp.asarray(rng.standard_normal((inputs, outputs))),
            'bias': jnp.asarray(rng.standard_normal(outputs))}


def quadratic(matrix, linear):
    """x'Ax/2 - b'x of x = (x['a'], x['b']), as a loss."""
    def loss(params, batch, key):
        x = jnp.concatenate([params['a'], params['b']])
        return x @ matrix @ x / 2 - linear @ x, None

    return loss


def positive_matrix(rng, size):
    root = rng.standard_normal((size, size + 3))
    return root @ root.T / size


def one_block(loss, rule=SOLVERS['dense']):
    return block_descent({'w': Block('', loss, rule)})


@pytest.mark.parametrize('solver', SOLVERS)
def test_a_linear_layer_is_least_squares(solver, key):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    descent = one_block(layer_loss, SOLVERS[solver])
    params = layer(rng)
    run = jax.jit(lambda s: descent.step(s, (x, y), key, 'w'))
    state, info = run(descent.init(params))
    expected = np.linalg.lstsq(np.c_[x, np.ones(30)], y)[0]
    np.testing.assert_allclose(state.params['kernel'], expected[:4], atol=1e-12)
    np.testing.assert_allclose(state.params['bias'], expected[4], atol=1e-12)
    loss, aux = layer_loss(params, (x, y), key)
    np.testing.assert_allclose(info.loss, loss, rtol=1e-14)
    np.testing.assert_allclose(info.aux['w']['out'], aux['out'], rtol=1e-14)
    # Once there, rounding is all that is left of the gradient, and it is not an error.
    again, info = run(state)
    assert jnp.isfinite(info.loss) and info.grad_norm < 1e-13
    np.testing.assert_allclose(again.params['kernel'], expected[:4], atol=1e-12)


@pytest.mark.parametrize('solver', SOLVERS)
def test_a_singular_block_goes_to_the_nearest_minimiser(solver, key):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3, 5)), rng.standard_normal((3, 2))
    start = rng.standard_normal((5, 2))

    def loss(w, batch, key):
        return jnp.sum(jnp.square(y - x @ w)), None

    descent = one_block(loss, SOLVERS[solver])
    run = jax.jit(lambda s: descent.step(s, None, key, 'w'))
    state, info = run(descent.init(jnp.asarray(start)))
    expected = start + np.linalg.lstsq(x, y - x @ start)[0]
    np.testing.assert_allclose(state.params, expected, atol=1e-12)
    assert jnp.isfinite(info.loss) and jnp.isfinite(run(state)[1].loss)


@pytest.mark.parametrize('solver', SOLVERS)
def test_a_block_with_nothing_to_do_is_no_error(solver, key):
    """All of the gradient is rounding, and all of the loss is residual."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((50, 4)), rng.standard_normal(50)
    y -= x @ np.linalg.lstsq(x, y)[0]

    def loss(w, batch, key):
        return jnp.mean(jnp.square(y - x @ w)), None

    descent = one_block(loss, SOLVERS[solver])
    state, info = jax.jit(lambda s: descent.step(s, None, key, 'w'))(
        descent.init(jnp.zeros(4)))
    assert jnp.isfinite(info.loss)
    np.testing.assert_allclose(state.params, 0, atol=1e-15)


@pytest.mark.parametrize('solver', SOLVERS)
def test_one_step_identity(solver, key):
    """f(x) - f(x+) = g_b' A_bb^-1 g_b / 2."""
    rng = np.random.default_rng(2)
    matrix, linear = positive_matrix(rng, 7), rng.standard_normal(7)
    loss = quadratic(matrix, linear)
    descent = block_descent({'a': Block('a', loss, SOLVERS[solver]),
                             'b': Block('b', loss, SOLVERS[solver])})
    params = {'a': jnp.asarray(rng.standard_normal(3)),
              'b': jnp.asarray(rng.standard_normal(4))}
    state, info = jax.jit(lambda s: descent.step(s, None, key, 'a'))(
        descent.init(params))
    grad = (matrix @ np.r_[params['a'], params['b']] - linear)[:3]
    np.testing.assert_allclose(info.loss - loss(state.params, None, key)[0],
                               grad @ np.linalg.solve(matrix[:3, :3], grad) / 2,
                               rtol=1e-12)
    np.testing.assert_allclose(info.grad_norm, np.linalg.norm(grad), rtol=1e-12)
    np.testing.assert_array_equal(state.params['b'], params['b'])


def test_two_blocks_contract_by_c_squared_and_by_c(key):
    """Gauss-Seidel by c^2 a cycle, Jacobi by c; c = |P^-1/2 B Q^-1/2|."""
    rng = np.random.default_rng(3)
    matrix = positive_matrix(rng, 6)
    p, b, q = matrix[:2, :2], matrix[:2, 2:], matrix[2:, 2:]
    c = np.sqrt(np.max(np.linalg.eigvals(
        np.linalg.solve(p, b) @ np.linalg.solve(q, b.T)).real))
    loss = quadratic(matrix, np.zeros(6))
    rule = exact_minimisation()
    descent = block_descent({'a': Block('a', loss, rule), 'b': Block('b', loss, rule)})

    def rate(step, steps):
        def body(state, _):
            state = step(state)
            return state, jnp.linalg.norm(state.params['a'])

        start = descent.init({'a': jnp.ones(2), 'b': jnp.ones(4)})
        norms = jax.jit(lambda s: jax.lax.scan(body, s, None, length=steps)[1])(start)
        return (norms[-1] / norms[-3]) ** 0.5  # two steps: Jacobi's errors alternate

    np.testing.assert_allclose(
        rate(lambda s: descent.cycle(s, None, key, ('a', 'b'))[0], 40), c ** 2, 1e-9)
    np.testing.assert_allclose(
        rate(lambda s: descent.simultaneous(s, None, key)[0], 80), c, 1e-9)


def test_a_linear_autoencoder_is_subspace_iteration(key):
    """span(W) <- S span(W) each cycle, S the covariance."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((40, 6)) * np.array([3, 2.5, 1.5, 1, 0.7, 0.4])

    def loss(params, batch, key):
        error = batch - batch @ params['encoder'] @ params['decoder']
        return jnp.mean(jnp.sum(jnp.square(error), axis=1)) / 2, None

    rule = exact_minimisation()
    descent = block_descent({'encoder': Block('encoder', loss, rule),
                             'decoder': Block('decoder', loss, rule)})
    start = rng.standard_normal((2, 6))
    state = descent.init({'encoder': jnp.zeros((6, 2)), 'decoder': jnp.asarray(start)})
    cycle = jax.jit(lambda s: descent.cycle(s, x, key, ('encoder', 'decoder')))
    basis = np.linalg.qr(start.T)[0]
    for _ in range(8):
        state, infos = cycle(state)
        basis = np.linalg.qr(x.T @ (x @ basis))[0]
        mine = np.linalg.qr(np.asarray(state.params['decoder']).T)[0]
        np.testing.assert_allclose(mine @ mine.T, basis @ basis.T, atol=1e-10)
        assert jnp.all(jnp.isfinite(infos.loss))


# What is not a quadratic with a minimum

def tanh_loss(w, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(y - jnp.tanh(x @ w))), None


def relu_loss(w, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(y - jax.nn.relu(x @ w))), None


def logistic_loss(w, batch, key):
    x, y = batch
    return jnp.mean(jnp.logaddexp(0, -y * (x @ w))), None


def critic_loss(w, batch, key):
    x, y = batch
    return jnp.mean(y * (x @ w)), None


def saddle_loss(w, batch, key):
    return w @ (jnp.array([9.0, 5, 1, -0.01], w.dtype) * w) + jnp.sum(w), None


BAD = {'tanh': (tanh_loss, 'not quadratic'), 'relu': (relu_loss, 'not quadratic'),
       'logistic': (logistic_loss, 'not quadratic'),
       'critic': (critic_loss, 'no minimum'), 'saddle': (saddle_loss, 'no minimum')}


@pytest.mark.parametrize('name, solver, dtype', [
    *[(name, 'dense', np.float64) for name in BAD],
    *[(name, 'iterated', np.float64) for name in ('tanh', 'critic', 'saddle')],
    ('tanh', 'dense', np.float32)])
@pytest.mark.sample(3)
def test_a_bad_block_is_detected_under_jit(name, solver, dtype, key):
    rng = np.random.default_rng(5)
    batch = (rng.standard_normal((20, 4)).astype(dtype),
             np.sign(rng.standard_normal(20)).astype(dtype))
    descent = one_block(BAD[name][0], SOLVERS[solver])
    start = jnp.asarray(rng.standard_normal(4), dtype)
    state, info = jax.jit(lambda s: descent.step(s, batch, key, 'w'))(
        descent.init(start))
    assert info.block == -1
    np.testing.assert_array_equal(state.params, start)
    np.testing.assert_allclose(info.loss, BAD[name][0](start, batch, key)[0], rtol=1e-6)
    visited, infos = descent.visit(descent.init(start), batch, key, 'w', steps=2)
    assert infos.block.tolist() == [-1, -1]
    with pytest.raises(ValueError, match='exact_minimisation finds no minimum') as told:
        descent.step(descent.init(start), batch, key, 'w')
    assert '\n' not in str(told.value)


@pytest.mark.parametrize('name', ['relu', 'critic'])
def test_a_bad_block_is_detected_before_training(name, key):
    rng = np.random.default_rng(5)
    batch = rng.standard_normal((20, 4)), np.sign(rng.standard_normal(20))
    loss, message = BAD[name]
    descent = one_block(loss)
    state = descent.init(jnp.asarray(rng.standard_normal(4)))
    with pytest.raises(ValueError, match=f"{message}.*block 'w'|block 'w'.*{message}"):
        check_quadratic(descent, state, batch, key, 'w')


@pytest.mark.thorough
def test_a_network_is_quadratic_in_its_last_layer_only(key):
    def loss(params, batch, key):
        x, y = batch
        out = jnp.tanh(x @ params['hidden']) @ params['out']
        return jnp.mean(jnp.square(y - out)), None

    rng = np.random.default_rng(6)
    batch = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    descent = block_descent({'hidden': Block('hidden', loss, exact_minimisation()),
                             'out': Block('out', loss, exact_minimisation())})
    state = descent.init({'hidden': jnp.asarray(rng.standard_normal((3, 5))),
                          'out': jnp.asarray(rng.standard_normal((5, 2)))})
    check_quadratic(descent, state, batch, key, 'out')
    with pytest.raises(ValueError, match="not quadratic in block 'hidden'"):
        check_quadratic(descent, state, batch, key, 'hidden')
    with pytest.raises(ValueError, match="unknown block 'head'"):
        check_quadratic(descent, state, batch, key, 'head')


def test_float32_is_not_taken_for_an_error(key):
    """Ill-conditioned data, again and again at the minimum: it is found every time."""
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((500, 20)) * np.logspace(0, -2, 20)).astype(np.float32)
    y = rng.standard_normal((500, 3)).astype(np.float32)

    def loss(w, batch, key):
        return jnp.mean(jnp.sum(jnp.square(y - x @ w), axis=1)) / 2, None

    least = np.sum(np.linalg.lstsq(x.astype(float), y.astype(float))[1]) / 1000
    for rule in SOLVERS.values():
        descent = one_block(loss, rule)
        run = jax.jit(lambda s: descent.step(s, None, key, 'w'))
        state = descent.init(jnp.zeros((20, 3), jnp.float32))
        for _ in range(4):
            state, info = run(state)
            assert jnp.isfinite(info.loss) and info.block == 0
        np.testing.assert_allclose(loss(state.params, None, key)[0], least, rtol=1e-6)


def test_products_are_exact_on_accelerators(key):
    """Where a product of float32 is one of TF32 or bfloat16 unless told otherwise."""
    descent = one_block(lambda w, batch, key: (jnp.sum(jnp.square(batch @ w)), None))
    state = descent.init(jnp.ones((4, 2), jnp.float32))
    program = jax.jit(lambda s, b: descent.step(s, b, key, 'w')).lower(
        state, jnp.ones((3, 4), jnp.float32)).as_text()
    products = [line for line in program.splitlines() if 'dot_general' in line]
    assert products and all('[HIGHEST, HIGHEST]' in line for line in products)


def test_a_tolerance_of_zero_is_not_left_out(key):
    """No rounding is forgiven then: of a third, the gradient is hardly ever 0."""
    def loss(w, batch, key):
        return jnp.sum((jnp.array([3.0, 7.0, 0.7]) * w - 1) ** 2), None

    def lost(tolerance):
        descent = one_block(loss, exact_minimisation(tolerance=tolerance))
        state, info = jax.jit(lambda s: descent.step(s, None, key, 'w'))(
            descent.init(jnp.full(3, 0.1)))
        return int(info.block) == -1

    assert [lost(0.0), lost(None), lost(1e-6)] == [True, False, False]


@pytest.mark.parametrize('solver', SOLVERS)
def test_a_leaf_without_entries_is_none_to_solve_for(solver, key):
    def loss(params, batch, key):
        return jnp.sum(params['none']) + jnp.sum((params['w'] - 3) ** 2), None

    descent = one_block(loss, SOLVERS[solver])
    state, info = descent.step(descent.init(
        {'none': jnp.zeros((0, 3)), 'w': jnp.zeros(2)}), None, key, 'w')
    np.testing.assert_allclose(state.params['w'], [3, 3], rtol=1e-12)
    assert info.loss == 18 and state.params['none'].shape == (0, 3)


@pytest.mark.parametrize('leaf, error, words', [
    (jnp.zeros((0, 3)), ValueError, 'no entry'),
    (jnp.zeros(2, complex), TypeError, "'w' are complex"),
])
def test_a_block_without_real_entries_is_refused_at_init(leaf, error, words):
    with pytest.raises(error) as caught:
        one_block(layer_loss).init({'w': leaf})
    assert words in str(caught.value) and '\n' not in str(caught.value)
