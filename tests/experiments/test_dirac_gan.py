import csv
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from experiments import dirac_gan
from experiments.harness import cli, errors

STEP, STEPS = 0.2, 500
COMMITTED = Path(dirac_gan.__file__).parents[1] / 'results' / 'dirac_gan.csv'


def field(loss, theta, psi):
    """Directions of both players, written down as Mescheder et al. 2018 do."""
    minimax = -psi * expit(-psi * theta), theta * expit(-psi * theta)
    match loss:
        case 'minimax':
            return minimax
        case 'non-saturating' | 'relativistic':
            return -psi * expit(psi * theta), minimax[1]
        case 'R1':
            return minimax[0], minimax[1] - 0.3 * psi
        case 'Wasserstein, clipped':
            return -psi, theta
        case 'WGAN-GP':
            return -psi, theta - 0.7 * (abs(psi) - 1) * np.sign(psi)


def by_hand(loss, dynamic):
    bound = 1 if loss == 'Wasserstein, clipped' else np.inf

    def step(point, move, at):
        theta, psi = point + STEP * np.asarray(field(loss, *at)) * move
        return np.array([theta, np.clip(psi, -bound, bound)])

    theirs, ours, both = np.eye(2)[0], np.eye(2)[1], np.ones(2)
    point = np.ones(2)
    points = [point]
    for _ in range(STEPS):
        if dynamic == 'simultaneous':
            point = step(point, both, point)
        elif dynamic == 'extragradient':
            point = step(point, both, step(point, both, point))
        else:
            g, d = {'alternating': (1, 1), '1:5': (1, 5), '5:1': (5, 1)}[dynamic]
            for move in [theirs] * g + [ours] * d:
                point = step(point, move, point)
        points.append(point)
    return np.array(points)


CELLS = [('minimax', 'simultaneous'), ('minimax', '1:5'), ('R1', '1:5'),
         ('non-saturating', 'alternating'), ('relativistic', '5:1'),
         ('Wasserstein, clipped', 'alternating'), ('WGAN-GP', 'alternating'),
         ('WGAN-GP', 'extragradient')]


@pytest.fixture(scope='module')
def paths():
    return {(loss, dynamic): dirac_gan.path(dynamic, dirac_gan.LOSSES[loss], STEP,
                                            STEPS)
            for loss, dynamic in CELLS}


@pytest.mark.parametrize('loss, dynamic', CELLS)
@pytest.mark.sample(3)
def test_paths_are_those_of_a_numpy_loop(paths, loss, dynamic):
    np.testing.assert_allclose(paths[loss, dynamic], by_hand(loss, dynamic),
                               rtol=1e-8, atol=1e-10)


def test_the_committed_table_is_what_the_command_writes(paths):
    with open(COMMITTED, newline='') as stream:
        rows = {(row['loss'], row['dynamic']): row for row in csv.DictReader(stream)}
    assert set(rows) == {(loss, dynamic) for loss in dirac_gan.LOSSES
                         for dynamic in dirac_gan.DYNAMICS}
    for cell, points in paths.items():
        away = np.linalg.norm(points, axis=1)
        seen = [float(rows[cell][name])
                for name in ('theta', 'psi', 'distance', 'largest_distance')]
        np.testing.assert_allclose(seen, [*points[-1], away[-1], away.max()],
                                   rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('loss, dynamic, modulus', [
    ('minimax', 'simultaneous', math.sqrt(1 + STEP ** 2 / 4)),
    ('minimax', 'alternating', 1.),
    ('minimax', 'extragradient', math.sqrt(1 - STEP ** 2 / 4 + STEP ** 4 / 16)),
    ('minimax', 'consensus', math.hypot(1 - STEP / 4, STEP / 2)),
    ('Wasserstein', 'simultaneous', math.sqrt(1 + STEP ** 2)),
    ('critical R1', 'simultaneous', 1 - STEP / 2)])
@pytest.mark.sample(2)
def test_moduli_at_the_equilibrium_are_the_closed_ones(loss, dynamic, modulus):
    one_step = dirac_gan.advance(dynamic, dirac_gan.LOSSES[loss], STEP)
    matrix = jax.jit(jax.jacobian(one_step))(jnp.zeros(2))
    # Critical R1 has a double eigenvalue, known to the root of the rounding error.
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(matrix)), modulus, rtol=1e-7)


def test_the_table_fits_a_terminal_and_the_file_is_complete(tmp_path):
    points = np.array([[1., 1.], [0., 2.]])
    paths = {(loss, dynamic): points for loss in dirac_gan.LOSSES
             for dynamic in dirac_gan.DYNAMICS}
    lines = dirac_gan.table(paths).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) == 2 + len(dirac_gan.LOSSES)
    dirac_gan.write(tmp_path / 'paths.csv', paths)
    with open(tmp_path / 'paths.csv', newline='') as stream:
        first, *rest = csv.DictReader(stream)
    assert len(rest) == 53
    assert first == {'loss': 'minimax', 'dynamic': 'simultaneous', 'theta': '0',
                     'psi': '2', 'distance': '2', 'largest_distance': '2'}


def test_a_step_beyond_the_limits_warns():
    dirac_gan.check_step_size(STEP)  # warnings are errors
    with pytest.warns(UserWarning, match='not below the stability limit 0.894'):
        dirac_gan.check_step_size(0.9)


def test_a_bad_flag_is_one_line():
    with pytest.raises(errors.SettingError, match='step_size'):
        cli.parse(dirac_gan.define_flags, ['--step_size=-1'])
