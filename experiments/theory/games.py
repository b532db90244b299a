"""Games: the dynamics of min_x max_y p/2 x^2 + a x y - q/2 y^2, with steps h.

bilinear: p = q = 0; SCSC, strongly convex and concave: p = q = mu > 0; two time scales:
p < 0, for which the faster player must make up. In the bilinear game only h a matters,
so a = 1 there.

Legend   l eigenvalues of a step (with its memories), as roots where a row says so;
         L = sqrt(mu^2 + a^2), kappa = L / mu; tau = h_y / h_x.
Sources  Mescheder et al. 2017 (arXiv:1705.10461), 2018 (arXiv:1801.04406); Gidel et al.
         2019 (arXiv:1807.04740) theorem 6; Zhang et al. 2022 (arXiv:2102.09468);
         Mokhtari et al. 2020 (arXiv:1901.08511);
         Heusel et al. 2017 (arXiv:1706.08500). The spectra not found there are those of
         the two-by-two (optimistic, momentum: larger) matrix of a step.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize_scalar

import cdgm
from cdgm.games import consensus, extragradient, stability_limit
from experiments.theory.rows import Row
from experiments.theory.spectra import eigenvalues, jacobian, radius, settled, threshold

KEY = jax.random.key(0)  # for losses that draw nothing
STRENGTH = 0.6  # gamma of consensus


def in_turn(*visits: int):
    """Each block in order, a number of updates each."""
    def dynamic(descent):
        order = [name for name, k in zip(descent.blocks, visits) for _ in range(k)]
        return partial(descent.cycle, order=tuple(order))

    return dynamic


def at_once(descent):
    return descent.simultaneous


class Dynamic(NamedTuple):
    """How two players move.

    Attributes:
      step: Descent -> (state, batch, key) -> (state, StepInfo).
      first, second: step size -> the player's rule.
    """

    step: Callable
    first: Callable = optax.sgd
    second: Callable = optax.sgd


DYNAMICS = {
    'simultaneous': Dynamic(at_once),
    'alternating': Dynamic(in_turn(1, 1)),
    '1:5': Dynamic(in_turn(1, 5)),
    'extragradient': Dynamic(extragradient),
    'optimistic': Dynamic(at_once, optax.optimistic_gradient_descent,
                          optax.optimistic_gradient_descent),
    'consensus': Dynamic(partial(consensus, strength=STRENGTH)),
    'negative momentum': Dynamic(in_turn(1, 1), partial(optax.sgd, momentum=-0.5))}


class Game(NamedTuple):
    """Attributes: the constants p, a and q."""

    first: float = 0.
    interaction: float = 1.
    second: float = 0.

    def descent(self, first_rule, second_rule) -> cdgm.Descent:
        """Blocks x and y."""
        def value(params, batch, key):
            x, y = params['x'], params['y']
            return self.first * x * x / 2 + self.interaction * x * y - (
                self.second * y * y / 2), None

        def opposed(params, batch, key):
            return -value(params, batch, key)[0], None

        return cdgm.block_descent({'x': cdgm.Block('x', value, first_rule),
                                   'y': cdgm.Block('y', opposed, second_rule)})


BILINEAR = Game()


def step_of(dynamic: str, game: Game, h_x, h_y):
    """(init, step) of a dynamic: (x, y) -> state, and state -> state."""
    how = DYNAMICS[dynamic]
    descent = game.descent(how.first(h_x), how.second(h_y))
    step = how.step(descent)
    return (lambda point: descent.init({'x': point[0], 'y': point[1]}),
            lambda state: step(state, None, KEY)[0])


@partial(jax.jit, static_argnums=0)
def _matrix(dynamic, game, h_x, h_y):
    init, step = step_of(dynamic, Game(*game), h_x, h_y)
    return jacobian(step, settled(init(jnp.zeros(2))))


def matrix(dynamic: str, h_x: float, h_y: float | None = None,
           game: Game = BILINEAR) -> np.ndarray:
    """The matrix of a step, at the equilibrium."""
    return np.asarray(_matrix(dynamic, tuple(map(float, game)), h_x,
                              h_x if h_y is None else h_y))


@partial(jax.jit, static_argnums=(0, 2))
def _path(dynamic, h, steps):
    init, step = step_of(dynamic, BILINEAR, h, h)

    def body(state, _):
        return step(state), jnp.stack([state.params['x'], state.params['y']])

    return jax.lax.scan(body, init(jnp.ones(2)), length=steps)[1]


def path(dynamic: str, h: float, steps: int) -> np.ndarray:
    """Follow a dynamic of the bilinear game from (1, 1), float[steps, 2]."""
    return np.asarray(_path(dynamic, h, steps))


def growth(dynamic: str, h: float) -> float:
    """The larger of |x| and |y| after 2000 steps; both start at 1."""
    return float(np.abs(path(dynamic, h, 2001)[-1]).max())


def limit(dynamic: str) -> float:
    """Where the radius of the bilinear game passes one, found by bisection."""
    # The slack parts orbits, radius one up to rounding, from what grows.
    return threshold(lambda h: radius(matrix(dynamic, h)) > 1 + 1e-9, 0.4, 2.5)


def simultaneous_modulus():
    h = 0.3
    return Row('bilinear, simultaneous: |l|^2 = 1 + h^2', 1 + h * h,
               radius(matrix('simultaneous', h)) ** 2, 'Mescheder et al. 2018')


def simultaneous_grows():
    h, steps = 0.3, 100
    lengths = np.linalg.norm(path('simultaneous', h, steps + 1), axis=1)
    return Row(f'bilinear, simultaneous: |z|^2 grows so, {steps} steps',
               (1 + h * h) ** steps, lengths[-1] ** 2 / lengths[0] ** 2,
               'Mescheder et al. 2018')


def alternating_determinant():
    return Row('bilinear, alternating: det = 1', 1,
               np.linalg.det(matrix('alternating', 0.7)), 'Gidel et al. 2019',
               tolerance=1e-12)


def alternating_angle():
    h = 0.7
    return Row('bilinear, alternating: turns by cos t = 1 - h^2/2', 1 - h * h / 2,
               eigenvalues(matrix('alternating', h))[0].real, 'derived',
               tolerance=1e-12)


def alternating_conserves():
    h = 0.7
    x, y = path('alternating', h, 2001).T
    form = x * x + y * y - h * x * y
    return Row('bilinear, alternating: conserves x^2+y^2-hxy, 2000 steps', form[0],
               form[np.argmax(np.abs(form - form[0]))], 'derived', tolerance=1e-12)


def alternating_limit():
    return Row('bilinear, alternating: bounded iff h < 2',
               stability_limit('alternating', 1.),
               limit('alternating'), 'derived', tolerance=1e-8)


def alternating_unequal():
    h_x, h_y = 0.9, 0.4
    return Row('bilinear, alternating, two step sizes: trace 2 - h_x h_y',
               2 - h_x * h_y,
               np.trace(matrix('alternating', h_x, h_y)), 'derived', tolerance=1e-12)


def five_to_one():
    # Five steps of y on one x are one of five times the length.
    h = 0.3
    return Row('bilinear, 1:5: |l| = 1, never converges', 1,
               radius(matrix('1:5', h)), 'derived')


def extragradient_modulus():
    h = 0.3
    return Row('bilinear, extragradient: |l|^2 = 1 - h^2 + h^4', 1 - h ** 2 + h ** 4,
               radius(matrix('extragradient', h)) ** 2, 'derived')


def extragradient_best():
    grid = np.linspace(0.5, 0.9, 9)
    return Row('bilinear, extragradient: |l|^2 >= 3/4 at every h', 0.75,
               min(radius(matrix('extragradient', h)) ** 2 for h in grid), 'derived',
               relation='>=')


def extragradient_at_best():
    return Row('bilinear, extragradient: |l|^2 = 3/4 at h^2 = 1/2', 0.75,
               radius(matrix('extragradient', math.sqrt(0.5))) ** 2, 'derived')


def extragradient_limit():
    return Row('bilinear, extragradient: converges iff h < 1',
               stability_limit('extragradient', 1.),
               limit('extragradient'), 'derived', tolerance=1e-8)


def optimistic_modulus():
    h = 0.3
    return Row('bilinear, optimistic, h<=1/2: |l|^2 = (1+sqrt(1-4h^2))/2',
               (1 + math.sqrt(1 - 4 * h * h)) / 2, radius(matrix('optimistic', h)) ** 2,
               'derived')


def optimistic_modulus_beyond():
    h = 0.55
    return Row('bilinear, optimistic, above: 1/4 + (h+sqrt(4h^2-1)/2)^2',
               0.25 + (h + math.sqrt(4 * h * h - 1) / 2) ** 2,
               radius(matrix('optimistic', h)) ** 2, 'derived')


def optimistic_limit():
    return Row('bilinear, optimistic: converges iff h < 1/sqrt 3',
               stability_limit('optimistic', 1.),
               limit('optimistic'), 'derived', tolerance=1e-8)


def consensus_modulus():
    h = 0.3
    return Row('bilinear, consensus: |l|^2 = (1 - h gamma)^2 + h^2',
               (1 - h * STRENGTH) ** 2 + h * h, radius(matrix('consensus', h)) ** 2,
               'derived')


def consensus_limit():
    return Row('bilinear, consensus: converges iff h < 2gamma/(1+gamma^2)',
               stability_limit('consensus', 1., strength=STRENGTH), limit('consensus'),
               'derived', tolerance=1e-8)


def momentum_roots():
    h = 0.5
    roots = np.roots(np.polyadd(np.polymul([1, -2, 1], [1, 0.5]), [h * h, 0, 0]))
    return Row('bilinear, momentum -1/2: (l-1)^2(l+1/2) + h^2 l^2 = 0',
               np.abs(roots).max(), radius(matrix('negative momentum', h)), 'derived')


def momentum_bound():
    h = 1.
    return Row('bilinear, momentum -1/2: |l|^2 <= max(1/2, 1-h^2/16)',
               max(0.5, 1 - h * h / 16),
               radius(matrix('negative momentum', h)) ** 2, 'Gidel et al. 2019',
               relation='<=')


def momentum_limit():
    return Row('bilinear, momentum -1/2: converges iff h < sqrt 2',
               stability_limit('negative momentum', 1.),
               limit('negative momentum'), 'derived', tolerance=1e-8)


LIMITED = {'extragradient': {}, 'optimistic': {}, 'consensus': {'strength': STRENGTH},
           'negative momentum': {}}


def _growths(factor: float) -> list[float]:
    """What 2000 steps do at a multiple of the limit, for every dynamic with one."""
    return [growth(name, factor * stability_limit(name, 1., **constants))
            for name, constants in LIMITED.items()]


def all_converge():
    return Row('the last four 1% below their limits: |z_2000| vanishes', 1e-3,
               max(_growths(0.99)), 'derived', relation='<=')


def all_diverge():
    return Row('the last four 1% beyond their limits: |z_2000| explodes', 1e3,
               min(_growths(1.01)), 'derived', relation='>=')


def alternating_diverges():
    return Row('bilinear, alternating, 1% beyond 2: |z_2000| explodes', 1e3,
               growth('alternating', 2.02), 'derived', relation='>=')


CONVEX_CONCAVE = Game(1., 10., 1.)
LENGTH = math.hypot(1, 10)  # L = kappa, for mu = 1


def convex_simultaneous():
    h = 1 / LENGTH ** 2
    return Row('SCSC, simultaneous: best |l| = sqrt(1 - 1/kappa^2)',
               math.sqrt(1 - 1 / LENGTH ** 2),
               radius(matrix('simultaneous', h, game=CONVEX_CONCAVE)),
               'Zhang et al. 2022')


def convex_simultaneous_limit():
    constant = stability_limit('simultaneous', 10., curvature=1.)
    found = threshold(lambda h: radius(matrix('simultaneous', h,
                                              game=CONVEX_CONCAVE)) > 1, 0.01, 0.1)
    return Row('SCSC, simultaneous: converges iff h < 2 mu/L^2',
               constant, found, 'Zhang et al. 2022')


def convex_alternating():
    h = 2 / (1 + LENGTH)
    # A double eigenvalue is known to the root of the rounding error only.
    return Row('SCSC, alternating: best |l| = (kappa-1)/(kappa+1)',
               (LENGTH - 1) / (LENGTH + 1),
               radius(matrix('alternating', h, game=CONVEX_CONCAVE)),
               'Zhang et al. 2022', tolerance=1e-6)


def convex_alternating_best():
    steps = 2 / (1 + LENGTH) * np.linspace(0.8, 1.05, 11)
    return Row('SCSC, alternating: no other step size is better',
               (LENGTH - 1) / (LENGTH + 1),
               min(radius(matrix('alternating', h, game=CONVEX_CONCAVE))
                   for h in steps), 'Zhang et al. 2022', relation='>=', tolerance=1e-6)


def convex_alternating_limit():
    constant = stability_limit('alternating', 10., curvature=1.)
    found = threshold(lambda h: radius(matrix('alternating', h,
                                              game=CONVEX_CONCAVE)) > 1, 0.01, 0.5)
    return Row('SCSC, alternating: converges iff h < 2/(mu + a)',
               constant, found, 'derived')


CONDITIONS = np.geomspace(10, 1000, 3)  # kappa


def _best_radius(dynamic: str, kappa: float) -> float:
    """The least radius over step sizes h, the same for both players.

    The players have two coordinates each, mu = 1 in both, and interact in one: the
    spectrum of the game's Jacobian holds 1 and 1 ± a i, from mu to L.
    """
    parts = [Game(1., a, 1.) for a in (0., math.sqrt(kappa ** 2 - 1))]
    found = minimize_scalar(
        lambda log_h: max(radius(matrix(dynamic, math.exp(log_h), game=part))
                          for part in parts),
        bounds=(-2 * math.log(kappa) - 2, 1 - math.log(kappa)), method='bounded',
        options={'xatol': 1e-3})
    return found.fun


def exponent(dynamic: str) -> float:
    """b of the fit: steps for a factor e = c kappa^b, kappa = 10 ... 1000."""
    steps = [-1 / math.log(_best_radius(dynamic, kappa)) for kappa in CONDITIONS]
    return float(np.polyfit(np.log(CONDITIONS), np.log(steps), 1)[0])


def _exponent_row(dynamic: str, wanted: int, reference: str):
    def row():
        return Row(f'SCSC, {dynamic}: steps grow as kappa^{wanted}, |error|', 0.15,
                   abs(exponent(dynamic) - wanted), reference, relation='<=')

    row.__name__ = f'exponent_{dynamic}'
    return row


EXPONENTS = tuple(_exponent_row(*row) for row in (
    ('simultaneous', 2, 'Zhang et al. 2022'), ('alternating', 1, 'Zhang et al. 2022'),
    ('extragradient', 1, 'Mokhtari et al. 2020'),
    ('optimistic', 1, 'Mokhtari et al. 2020')))

SCALES = Game(-2., 3., 1.)  # p = -2, q = 1: the ratio of the two is 2


def _scales_threshold(h: float) -> float:
    """The ratio of the step sizes, y's to x's, from which the game is stable."""
    return threshold(lambda tau: radius(matrix('simultaneous', h, tau * h, SCALES)) > 1,
                     1., 4.)


def two_time_scales():
    # det = (1 + 2h)(1 - tau h) + 9 tau h^2 < 1.
    h = 0.01
    return Row('two time scales, p=-2, q=1, a=3: iff tau > 2/(1 - 7h)', 2 / (1 - 7 * h),
               _scales_threshold(h), 'derived')


def two_time_scales_limit():
    return Row('two time scales, h -> 0: iff tau > |p|/q = 2', 2,
               _scales_threshold(1e-8), 'Heusel et al. 2017', tolerance=1e-6)


ROWS = (simultaneous_modulus, simultaneous_grows, alternating_determinant,
        alternating_angle, alternating_conserves, alternating_limit,
        alternating_unequal, five_to_one, extragradient_modulus, extragradient_best,
        extragradient_at_best, extragradient_limit, optimistic_modulus,
        optimistic_modulus_beyond, optimistic_limit, consensus_modulus,
        consensus_limit, momentum_roots, momentum_bound, momentum_limit, all_converge,
        all_diverge, alternating_diverges, convex_simultaneous,
        convex_simultaneous_limit, convex_alternating, convex_alternating_best,
        convex_alternating_limit, *EXPONENTS, two_time_scales, two_time_scales_limit)
