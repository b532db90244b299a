"""The Dirac-GAN: a GAN's dynamics near its equilibrium, and far from it.

Near (0, 0) minimax, non-saturating and relativistic losses make a bilinear game of
interaction f'(0) = 1/2, for which alternation and more updates of one player give
eigenvalues on the unit circle. R1 adds a curvature gamma to the discriminator.

Legend   h step; l eigenvalues of a step; v = (l - 1)/h those of the gradient flow.
Sources  Mescheder et al. 2017 (arXiv:1705.10461), 2018 (arXiv:1801.04406).
"""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments import dirac_gan
from experiments.dirac_gan import LOSSES, Setting
from experiments.theory.games import DYNAMICS, Dynamic, STRENGTH, in_turn
from experiments.theory.rows import Row
from experiments.theory.spectra import eigenvalues, jacobian, radius, settled, threshold

KEY = jax.random.key(0)  # what is drawn does not matter
DATA = np.zeros((1, 1))  # the data are the point 0
MINIMAX, ALTERNATING = LOSSES['minimax'], DYNAMICS['alternating']
ONE_TO_FOUR = Dynamic(in_turn(1, 4))
LONG = 20_000  # steps
RATIOS = (ALTERNATING, Dynamic(in_turn(1, 5)), Dynamic(in_turn(5, 1)))


def _step_of(how, setting, h):
    descent = dirac_gan.game(setting, how.first(h), how.second(h))
    step = how.step(descent)
    return (lambda point: descent.init({'generator': point[0],
                                        'discriminator': point[1]}),
            lambda state: step(state, DATA, KEY)[0])


@partial(jax.jit, static_argnums=(0, 1))
def _matrix(how, loss, constants, h):
    init, step = _step_of(how, Setting(loss, *constants), h)
    return jacobian(step, settled(init(jnp.zeros(2))))


def matrix(how: Dynamic, setting: Setting, h: float) -> np.ndarray:
    """The matrix of a step, at the equilibrium."""
    loss, *constants = setting
    return np.asarray(_matrix(how, loss, tuple(constants), h))


@partial(jax.jit, static_argnums=(0, 1, 4))
def _path(how, loss, constants, h, steps):
    init, step = _step_of(how, Setting(loss, *constants), h)

    def body(state, _):
        return step(state), jnp.stack([state.params['generator'],
                                       state.params['discriminator']])

    return jax.lax.scan(body, init(jnp.ones(2)), length=steps)[1]


@cache
def path(how: Dynamic, setting: Setting, h: float, steps: int) -> np.ndarray:
    """Follow a dynamic from (1, 1), float[steps, 2]."""
    loss, *constants = setting
    return np.asarray(_path(how, loss, tuple(constants), h, steps))


def flow(how: Dynamic, setting: Setting) -> np.ndarray:
    """Eigenvalues of the gradient flow, the upper of a pair first."""
    h = 0.1
    values = (eigenvalues(matrix(how, setting, h)) - 1) / h
    return values[np.argsort(-values.imag, kind='stable')]


def simultaneous():
    h = 0.4
    return Row('Dirac-GAN, simultaneous: |l|^2 = 1 + h^2/4', 1 + h * h / 4,
               radius(matrix(DYNAMICS['simultaneous'], MINIMAX, h)) ** 2,
               'Mescheder et al. 2018')


def alternating():
    h = 0.4
    return Row('Dirac-GAN, alternating 1:4: Re l = 1 - (2h/2)^2/2', 1 - h * h / 2,
               eigenvalues(matrix(ONE_TO_FOUR, MINIMAX, h))[0].real,
               'Mescheder et al. 2018', tolerance=1e-12)


def alternating_unit_circle():
    moduli = [radius(matrix(how, MINIMAX, 0.4)) for how in RATIOS]
    return Row('Dirac-GAN, alternating 1:1, 1:5, 5:1: |l| = 1', 1,
               max(moduli, key=lambda modulus: abs(modulus - 1)),
               'Mescheder et al. 2018')


def alternating_limit():
    found = threshold(lambda h: radius(matrix(ONE_TO_FOUR, MINIMAX, h)) > 1 + 1e-9,
                      1., 3.)
    return Row('Dirac-GAN, alternating 1:4: on the circle iff h <= 2', 2, found,
               'Mescheder et al. 2018', tolerance=1e-8)


def alternating_beyond():
    # l + 1/l = 2 - h^2 has the roots -1.5625 and -0.64 at h = 2.05.
    return Row('Dirac-GAN, alternating 1:4, h = 2.05: |l| = 1.5625', 1.5625,
               radius(matrix(ONE_TO_FOUR, MINIMAX, 2.05)), 'Mescheder et al. 2018')


def never_converges():
    # h_2 theta^2 + h_1 psi^2 - h_1 h_2 theta psi is conserved, with h_1 = n_g h and h_2
    # = n_d h, when the game is bilinear everywhere.
    h, visits, worst = 0.2, ((1, 1), (1, 5), (5, 1)), 1.
    for how, (n_g, n_d) in zip(RATIOS, visits):
        theta, psi = path(how, LOSSES['Wasserstein'], h, LONG).T
        form = n_d * theta ** 2 + n_g * psi ** 2 - h * n_g * n_d * theta * psi
        worst = max(worst, form[-1] / form[0], key=lambda ratio: abs(ratio - 1))
    return Row('Dirac-WGAN, 1:1, 1:5, 5:1: form conserved for 20000 steps', 1, worst,
               'derived', tolerance=1e-10)


def never_arrives():
    # Minimax is bilinear at (0, 0) only. Farther out 1:5 creeps inwards, about as t to
    # the power -1/6, while 1:1 and 5:1 drift away; none has a rate of convergence.
    nearest = [np.linalg.norm(path(how, MINIMAX, 0.2, LONG), axis=1).min()
               for how in RATIOS]
    return Row('Dirac-GAN, 1:1, 1:5, 5:1: stays away for 20000 steps', 0.5,
               min(nearest), 'Mescheder et al. 2018', relation='>=')


def arrives_with_r1():
    ends = [path(how, LOSSES['R1'], 0.2, LONG)[1000] for how in RATIOS]
    return Row('Dirac-GAN with R1, the same three: |z_1000| vanishes', 1e-9,
               np.linalg.norm(ends, axis=1).max(), 'Mescheder et al. 2018',
               relation='<=')


# The non-saturating flow has d|z|^2/dt = -2 theta psi tanh(theta psi / 2), which a turn
# averages to -|z|^4 / 8: the distance falls as sqrt(8/t), to zero but not linearly.
def non_saturating():
    h = 0.4
    return Row('Dirac-GAN, non-saturating, alternating: |l| = 1', 1,
               radius(matrix(ALTERNATING, LOSSES['non-saturating'], h)),
               'Mescheder et al. 2018')


def _non_saturating_end() -> float:
    last = path(ALTERNATING, LOSSES['non-saturating'], 0.2, LONG)[-1]
    return float(np.linalg.norm(last))


def non_saturating_arrives():
    return Row('Dirac-GAN, non-saturating: |z| <= 2 sqrt(8/t), t = 4000',
               2 * math.sqrt(8 / (0.2 * LONG)), _non_saturating_end(), 'derived',
               relation='<=')


def non_saturating_late():
    return Row('Dirac-GAN, non-saturating: |z| >= sqrt(8/t)/2, t = 4000',
               math.sqrt(8 / (0.2 * LONG)) / 2, _non_saturating_end(), 'derived',
               relation='>=')


def r1_decay():
    return Row('Dirac-GAN, R1: Re v = -gamma/2', -0.15,
               flow(DYNAMICS['simultaneous'], LOSSES['R1'])[0].real,
               'Mescheder et al. 2018')


def r1_frequency():
    return Row('Dirac-GAN, R1: Im v = sqrt(1/4 - gamma^2/4)',
               math.sqrt(0.25 - 0.15 ** 2),
               flow(DYNAMICS['simultaneous'], LOSSES['R1'])[0].imag,
               'Mescheder et al. 2018')


def r1_critical():
    def turns(gamma):
        setting = MINIMAX._replace(r1=gamma)
        # At the double eigenvalue rounding makes an imaginary part of about 1e-8.
        return flow(DYNAMICS['simultaneous'], setting)[0].imag > 1e-6

    return Row("Dirac-GAN, R1: v real iff gamma >= 2|f'(0)| = 1", 1,
               threshold(turns, 0.5, 2.), 'Mescheder et al. 2018', tolerance=1e-8)


def r1_overdamped():
    gamma = 2.
    values = flow(DYNAMICS['simultaneous'], MINIMAX._replace(r1=gamma))
    return Row('Dirac-GAN, R1 beyond: v = -gamma/2 + sqrt(gamma^2 - 1)/2',
               (math.sqrt(gamma ** 2 - 1) - gamma) / 2, values.real.max(),
               'Mescheder et al. 2018')


def consensus_decay():
    return Row('Dirac-GAN, consensus: Re v = -gamma/4', -STRENGTH / 4,
               flow(DYNAMICS['consensus'], MINIMAX)[0].real, 'Mescheder et al. 2017')


def consensus_frequency():
    return Row('Dirac-GAN, consensus: Im v = 1/2', 0.5,
               flow(DYNAMICS['consensus'], MINIMAX)[0].imag, 'Mescheder et al. 2017')


def extragradient():
    h = 0.4
    return Row('Dirac-GAN, extragradient: |l|^2 = 1 - h^2/4 + h^4/16',
               1 - h ** 2 / 4 + h ** 4 / 16,
               radius(matrix(DYNAMICS['extragradient'], MINIMAX, h)) ** 2, 'derived')


def optimistic():
    h = 0.4
    return Row('Dirac-GAN, optimistic: |l|^2 = (1 + sqrt(1 - h^2))/2',
               (1 + math.sqrt(1 - h * h)) / 2,
               radius(matrix(DYNAMICS['optimistic'], MINIMAX, h)) ** 2, 'derived')


ROWS = (simultaneous, alternating, alternating_unit_circle, alternating_limit,
        alternating_beyond, never_converges, never_arrives, arrives_with_r1,
        non_saturating, non_saturating_arrives, non_saturating_late, r1_decay,
        r1_frequency, r1_critical, r1_overdamped, consensus_decay,
        consensus_frequency, extragradient, optimistic)
