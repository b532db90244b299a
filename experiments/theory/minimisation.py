"""Minimisation: coordinate descent on a convex quadratic, f(x) = x'Ax / 2.

Legend   n coordinates; D = diag(A), L_i = A_ii, L = max L_i; l eigenvalues of A;
         g = Ax; kappa = condition number; the minimum is f = 0 at x = 0.
Sources  Nesterov 2012, SIAM J. Optim. 22(2); Leventhal & Lewis 2010, Math. Oper. Res.
         35(3); Nutini et al. 2015 (arXiv:1506.00552); Sun & Ye 2019
         (arXiv:1604.07130); Lee & Wright 2019 (arXiv:1607.08320); Young 1971, Iterative
         Solution of Large Linear Systems; Kingma & Ba 2015 (arXiv:1412.6980).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cdgm
from cdgm.moves.coordinate import coordinate_move
from cdgm.moves.exact import exact_minimisation
from cdgm.selection import gauss_southwell
from cdgm.selection._drive import drive
from experiments.theory.rows import Row
from experiments.theory.spectra import jacobian, radius, threshold

KEY = jax.random.key(0)  # for losses that draw nothing
SIZE = 5
CYCLE = 20  # coordinates of the Sun-Ye problem


def random_quadratic(size: int) -> np.ndarray:
    """A well-conditioned A with unequal curvatures, float64[n, n]."""
    root = np.random.default_rng(1).normal(size=(size, size))
    return root @ root.T / size + np.diag(np.linspace(0.5, 2, size))


def sun_ye(size: int, c: float) -> np.ndarray:
    """A = c 11' + (1 - c) I, on which a fixed order is at its worst as c -> 1."""
    return c * np.ones((size, size)) + (1 - c) * np.eye(size)


def value(params, batch, key):
    """f(x) as a loss; the batch is A, and x is ravelled from whatever it is made of."""
    x = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    return x @ batch @ x / 2, None


def scalars(steps) -> cdgm.Descent:
    """Each coordinate a block, with gradient steps of its own length."""
    return cdgm.block_descent({str(i): cdgm.Block(str(i), value, optax.sgd(step))
                               for i, step in enumerate(steps)})


def f(matrix, params) -> float:
    return float(value(params, matrix, KEY)[0])


@jax.jit
def values_after_each(matrix, x):
    """f after the exact step of each coordinate alone, float[n]."""
    descent = scalars(1 / jnp.diag(matrix))
    state = descent.init(tuple(x))
    after = [descent.step(state, matrix, KEY, i)[0] for i in range(len(x))]
    return jnp.stack([value(state.params, matrix, KEY)[0] for state in after])


def one_step_identity():
    matrix, x = random_quadratic(SIZE), np.arange(1., SIZE + 1)
    decreases = f(matrix, x) - values_after_each(matrix, x)
    return Row('exact coordinate step: sum_i decrease = g_i^2/2L_i',
               ((matrix @ x) ** 2 / np.diag(matrix)).sum() / 2, decreases.sum(),
               'Nesterov 2012', tolerance=1e-12)


def halves(rules) -> cdgm.Descent:
    return cdgm.block_descent({name: cdgm.Block(name, value, rule)
                               for name, rule in zip('ab', rules)})


def _block_decrease(rule):
    """(A_bb, g_b, decrease) of a step of a block of two out of five."""
    matrix, x = random_quadratic(SIZE), np.arange(1., SIZE + 1)
    descent = halves((rule, optax.sgd(1.)))
    state = descent.init({'a': jnp.asarray(x[:2]), 'b': jnp.asarray(x[2:])})
    after, _ = jax.jit(partial(descent.step, block='a'))(state, matrix, KEY)
    return (matrix[:2, :2], (matrix @ x)[:2],
            f(matrix, state.params) - f(matrix, after.params))


def block_step_identity():
    corner, slope, decrease = _block_decrease(exact_minimisation())
    return Row("exact block step: decrease = g_b' A_bb^-1 g_b / 2",
               slope @ np.linalg.solve(corner, slope) / 2, decrease, 'derived')


def block_descent_lemma():
    lipschitz = np.linalg.eigvalsh(random_quadratic(SIZE)[:2, :2])[-1]
    _, slope, decrease = _block_decrease(optax.sgd(1 / lipschitz))
    return Row('block step 1/L_b: decrease >= |g_b|^2/2L_b',
               slope @ slope / (2 * lipschitz), decrease, 'Nesterov 2012',
               relation='>=')


def uniform_random():
    matrix = random_quadratic(SIZE)
    scale = 1 / np.sqrt(np.diag(matrix))
    values, vectors = np.linalg.eigh(scale[:, None] * matrix * scale)
    worst = scale * vectors[:, 0]
    expected = values_after_each(matrix, worst).mean()
    return Row('uniform random: E f factor 1 - l_min(D^-1/2AD^-1/2)/n',
               1 - values[0] / SIZE, expected / f(matrix, worst), 'Nesterov 2012',
               tolerance=1e-12)


def lipschitz_weighted():
    matrix = random_quadratic(SIZE)
    values, vectors = np.linalg.eigh(matrix)
    weights = np.diag(matrix) / np.trace(matrix)
    expected = values_after_each(matrix, vectors[:, 0]) @ weights
    return Row('Lipschitz-weighted random: E f factor 1 - l_min/tr A',
               1 - values[0] / np.trace(matrix), expected / f(matrix, vectors[:, 0]),
               'Leventhal & Lewis 2010', tolerance=1e-12)


@partial(jax.jit, static_argnums=(0, 1))
def _driven(rule, count, steps, matrix, x):
    """f before each of `count` steps and after the last, float[count + 1]."""
    driven = drive(scalars(steps), rule)

    def body(state, _):
        state, info = driven.step(state, matrix, KEY)
        return state, info.loss

    state, losses = jax.lax.scan(body, driven.init(tuple(x)), length=count)
    return jnp.append(losses, value(state.descent.params, matrix, KEY)[0])


def driven_values(rule, count, matrix, x, steps=None) -> np.ndarray:
    """Follow f under a rule or a schedule, with exact steps unless others are given."""
    steps = 1 / jnp.diag(jnp.asarray(matrix)) if steps is None else steps
    return np.asarray(_driven(rule, count, steps, matrix, jnp.asarray(x)))


# For diagonal A: mu_1 = min x'Ax / |x|_1^2 = 1 / sum_i(1/l_i), at x_i ~ 1/l_i, where
# all g_i are equal; there a greedy step 1/L on the coordinate of L attains the rate.
# The eigenvalues are powers of two, so that the g_i are equal in floating point.
DIAGONAL = np.array([4., 1., 0.5, 2., 0.25])


MU_1 = 1 / (1 / DIAGONAL).sum()
GREEDY = gauss_southwell(SIZE, refresh=1)
GREEDY_STEPS = 20


def _greedy_values(x) -> np.ndarray:
    """Follow Gauss-Southwell with the one step 1/L for every coordinate."""
    return driven_values(GREEDY, GREEDY_STEPS, np.diag(DIAGONAL), x,
                         np.full(SIZE, 1 / DIAGONAL.max()))


def gauss_southwell_attained():
    losses = _greedy_values(1 / DIAGONAL)
    return Row('Gauss-Southwell: worst factor 1 - mu_1/L, diagonal A',
               1 - MU_1 / DIAGONAL.max(), losses[1] / losses[0], 'Nutini et al. 2015',
               tolerance=1e-12)


def gauss_southwell_bound():
    losses = _greedy_values(np.random.default_rng(2).normal(size=SIZE))
    return Row(f'Gauss-Southwell: f_k/f_0 <= (1 - mu_1/L)^k, k={GREEDY_STEPS}',
               (1 - MU_1 / DIAGONAL.max()) ** GREEDY_STEPS, losses[-1] / losses[0],
               'Nutini et al. 2015', relation='<=')


def gauss_southwell_lipschitz():
    matrix, x = random_quadratic(SIZE), np.random.default_rng(2).normal(size=SIZE)
    rule = gauss_southwell(SIZE, refresh=1, lipschitz=tuple(np.diag(matrix)))
    losses = driven_values(rule, 1, matrix, x)
    return Row('Gauss-Southwell-Lipschitz takes the best coordinate',
               values_after_each(matrix, x).min(), losses[1], 'Nutini et al. 2015',
               tolerance=1e-12)


def entries(schedule, matrix) -> cdgm.Descent:
    """Exact steps on the entries of one array, in the order of a schedule."""
    move = coordinate_move(jnp.diag(jnp.asarray(matrix)), entries=schedule)
    return cdgm.block_descent({'x': cdgm.Block('', value, move)})


def scheduled_values(schedule, cycles, matrix, x) -> np.ndarray:
    """Follow f under a schedule of exact steps, before each cycle."""
    return np.asarray(_scheduled(schedule, cycles, matrix, jnp.asarray(x)))


@partial(jax.jit, static_argnums=(0, 1))
def _scheduled(schedule, cycles, matrix, x):
    descent = entries(schedule, matrix)
    step = one_cycle(descent, matrix)
    return jax.lax.scan(
        lambda state, _: (step(state), value(state.params, matrix, KEY)[0]),
        descent.init(x), length=cycles)[1]


def one_cycle(descent, matrix):
    """State -> state after as many steps as there are entries."""
    size = len(matrix)
    batches = jnp.broadcast_to(matrix, (size, size, size))
    keys = jnp.broadcast_to(KEY, (size,))
    return lambda state: descent.visit(state, batches, keys, 'x')[0]


@jax.jit
def _cyclic_matrix(matrix):
    descent = entries(cdgm.cyclic((1,) * CYCLE), matrix)
    return jacobian(one_cycle(descent, matrix), descent.init(jnp.zeros(CYCLE)))


def cyclic_radius(c: float) -> float:
    """Radius of a cyclic cycle of the Sun-Ye problem."""
    return radius(_cyclic_matrix(sun_ye(CYCLE, c)))


def sun_ye_spectrum():
    # An eigenvector of the cycle has x_{i+1} = q x_i with l = q^n, and q solves
    # q^n = (1 - c) q^(n-1) + c; the root q = 1 belongs to no eigenvector.
    c = 0.9
    roots = np.roots([1, -(1 - c), *[0] * (CYCLE - 2), -c])
    roots = np.delete(roots, np.argmin(np.abs(roots - 1)))
    return Row(f'cyclic order, Sun-Ye A, n={CYCLE}: radius max |q|^n',
               np.abs(roots).max() ** CYCLE, cyclic_radius(c), 'derived')


def _slowdown() -> float:
    """Rate of f of random choice over that of the cyclic order, per cycle, c -> 1."""
    c = 1 - 1e-7
    return (1 - c) / (1 - cyclic_radius(c) ** 2)


def sun_ye_limit():
    # To first order in 1 - c the roots above give |l| = 1 - (1 - c)(1 - cos 2 pi/n).
    return Row('cyclic over random, Sun-Ye A, c -> 1: 1/4sin^2(pi/n)',
               1 / (4 * np.sin(np.pi / CYCLE) ** 2), _slowdown(), 'derived',
               tolerance=1e-6)


def sun_ye_slowdown():
    return Row('cyclic over random, Sun-Ye A, c -> 1: >= n^2/4pi^2',
               CYCLE ** 2 / (4 * np.pi ** 2), _slowdown(),
               'Sun & Ye 2019', relation='>=')


def _cycles_needed(schedule, at_most: int) -> float:
    """Cycles from a random start to f = 1e-8 f_0 on the Sun-Ye problem, c = 0.9."""
    losses = scheduled_values(schedule, at_most, sun_ye(CYCLE, 0.9),
                              np.random.default_rng(3).normal(size=CYCLE))
    reached = losses <= 1e-8 * losses[0]
    return float(np.argmax(reached)) if reached.any() else np.inf


# Uniform random choice lowers E f by 1 - (1 - c)/n a step, so that in expectation this
# many cycles suffice; a permuted order needs fewer and a cyclic one many times more.
ENOUGH = np.log(1e-8) / (CYCLE * np.log(1 - 0.1 / CYCLE))


def shuffled_cure():
    needed = _cycles_needed(cdgm.shuffled((1,) * CYCLE, jax.random.key(1)), 200)
    return Row('shuffled order: cycles to 1e-8 within random\'s bound', ENOUGH, needed,
               'Lee & Wright 2019', relation='<=')


def cyclic_disease():
    needed = _cycles_needed(cdgm.cyclic((1,) * CYCLE), 1500)
    return Row('cyclic order: over five times as many as the bound', 5 * ENOUGH,
               needed, 'Sun & Ye 2019', relation='>=')


TWO_BLOCKS = halves((exact_minimisation(),) * 2)


def _canonical():
    """The leading canonical pair of A = [P B; B' Q]: (c, a, b).

    c is the largest singular value of P^-1/2 B Q^-1/2, and a and b belong to it, with
    a'Pa = b'Qb = 1 and a'Bb = c.
    """
    matrix = random_quadratic(SIZE)
    p, q, b = matrix[:2, :2], matrix[2:, 2:], matrix[:2, 2:]
    p_root, q_root = [np.linalg.inv(np.linalg.cholesky(m)).T for m in (p, q)]
    left, values, right = np.linalg.svd(p_root.T @ b @ q_root)
    return values[0], p_root @ left[:, 0], q_root @ right[0]


@jax.jit
def _images(x):
    """Where each of N points goes, float[N, n]: in turn, at once, a alone, b alone."""
    matrix = random_quadratic(SIZE)

    def at(x):
        state = TWO_BLOCKS.init({'a': x[:2], 'b': x[2:]})
        ends = (TWO_BLOCKS.cycle(state, matrix, KEY, ('a', 'b')),
                TWO_BLOCKS.simultaneous(state, matrix, KEY),
                TWO_BLOCKS.step(state, matrix, KEY, 'a'),
                TWO_BLOCKS.step(state, matrix, KEY, 'b'))
        return [jnp.concatenate([end.params['a'], end.params['b']]) for end, _ in ends]

    return jax.vmap(at)(x)


def gauss_seidel():
    in_turn, *_ = _images(np.eye(SIZE))  # the map is linear: rows are its columns
    return Row('two exact blocks in turn (Gauss-Seidel): radius c^2',
               _canonical()[0] ** 2, radius(in_turn), 'Young 1971')


def jacobi():
    _, at_once, *_ = _images(np.eye(SIZE))
    return Row('two exact blocks at once (Jacobi): radius c', _canonical()[0],
               radius(at_once), 'Young 1971')


def random_block():
    # At x = (a, -b) f is 1 - c, and after either step it is (1 - c^2)/2.
    c, a, b = _canonical()
    worst = np.tile(np.concatenate([a, -b]), (SIZE, 1))
    matrix, (*_, first, second) = random_quadratic(SIZE), _images(worst)
    expected = (f(matrix, first[0]) + f(matrix, second[0])) / 2
    return Row('a random one of two exact blocks: worst E f (1 + c)/2', (1 + c) / 2,
               expected / f(matrix, worst[0]), 'derived')


MOMENTUM, COUPLING = 0.9, 0.9  # of two scalars, x^2/2 + c x y + y^2/2


@partial(jax.jit, static_argnums=0)
def _momentum_matrix(in_turn: bool, step):
    """A cycle of two scalar blocks under gradients with momentum, with its memories."""
    descent = halves([optax.sgd(step, momentum=MOMENTUM)] * 2)
    matrix = jnp.asarray(sun_ye(2, COUPLING))
    state = descent.init({'a': jnp.zeros(()), 'b': jnp.zeros(())})

    def cycle(state):
        if in_turn:
            return descent.cycle(state, matrix, KEY, ('a', 'b'))[0]
        return descent.simultaneous(state, matrix, KEY)[0]

    return jacobian(cycle, state)


def _longest_step(in_turn: bool) -> float:
    """The step from which on gradients with momentum grow."""
    return threshold(lambda step: radius(_momentum_matrix(in_turn, step)) > 1, 1e-3, 3.)


def momentum_at_once():
    # Heavy ball: h l < 2 (1 + b) for the eigenvalues 1 - c and 1 + c.
    return Row('two blocks at once, momentum b: stable iff h(1+c)<2(1+b)',
               2 * (1 + MOMENTUM) / (1 + COUPLING), _longest_step(False),
               'Polyak 1964', tolerance=1e-8)


def momentum_in_turn():
    # With z = e^(2iu) an eigenvalue of modulus 1, h^2 c^2 z = (z - 1 - b + h + b/z)^2:
    # divided by e^(iu), the root's imaginary part gives 4 b sin^2 u = h - 2 (1 - b),
    # and then the real part (1 - b) 2 cos u = h c.
    b, c = MOMENTUM, COUPLING
    step = np.real(np.roots([b * c ** 2, (1 - b) ** 2, -2 * (1 + b) * (1 - b) ** 2]))
    return Row('in turn: iff b h^2c^2 < (1-b)^2 (2(1+b)-h), a ninth here',
               float(step.max()), _longest_step(True), 'derived', tolerance=1e-8)


def frozen_adam():
    rate, cycles = 0.1, 20
    descent = cdgm.block_descent({
        name: cdgm.Block(name, lambda params, batch, key: (params['x'], None), rule)
        for name, rule in (('x', optax.adam(rate)), ('y', optax.sgd(1.)))})
    driven = drive(descent, cdgm.cyclic((1, 9)))

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: (driven.step(s, None, KEY)[0],
                                          s.descent.params['x']), state,
                            length=10 * cycles)[1]

    zero = jnp.zeros(())
    active = np.abs(np.diff(run(driven.init({'x': zero, 'y': zero}))))[::10]
    worst = active[np.argmax(np.abs(active - rate))]
    return Row('frozen Adam, active 1 step in 10: each active move lr', rate,
               worst, 'Kingma & Ba 2015', tolerance=1e-6)


ROWS = (one_step_identity, block_step_identity, block_descent_lemma, uniform_random,
        lipschitz_weighted, gauss_southwell_attained, gauss_southwell_bound,
        gauss_southwell_lipschitz, sun_ye_spectrum, sun_ye_limit, sun_ye_slowdown,
        shuffled_cure, cyclic_disease, gauss_seidel, jacobi, random_block,
        momentum_at_once, momentum_in_turn, frozen_adam)
