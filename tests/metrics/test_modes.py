import math

import jax
import numpy as np
import ot
import pytest
from scipy import stats
from scipy.stats import wasserstein_distance

from cdgm.metrics import mode_scores, reverse_kl, sliced_wasserstein
from cdgm.metrics.sliced_wasserstein import directions

CENTRES = np.array([[0., 0.], [1., 0.], [0., 1.], [1., 1.]])
STD = 0.1
score = jax.jit(mode_scores, static_argnames=('radius', 'resamples'))


def by_hand(samples, radius=3.):
    """The definitions in a loop."""
    counts = np.zeros(len(CENTRES), int)
    for sample in samples:
        away = [math.dist(sample, centre) for centre in CENTRES]
        if min(away) <= radius * STD:
            counts[int(np.argmin(away))] += 1
    return counts


def near(mode, number, away=0.):
    return np.repeat(CENTRES[[mode]] + [[away, 0.]], number, axis=0)


def test_samples_made_by_hand(key):
    samples = np.concatenate([near(0, 6), near(1, 2, 0.29), near(2, 1, 0.31),
                              near(3, 1, 0.5), [[np.nan, 0.], [np.inf, 1.]]])
    scores = score(samples, CENTRES, STD, key)
    assert scores.counts.tolist() == [6, 2, 0, 0] and scores.captured.mean == 2
    np.testing.assert_allclose(scores.high_quality.mean, 8 / 12)
    np.testing.assert_allclose(scores.reverse_kl.mean, stats.entropy(
        [6, 2, 0, 0], [1, 1, 1, 1]))


def test_is_the_loop(key):
    samples = np.random.default_rng(20).uniform(-0.5, 1.5, (500, 2))
    scores = score(samples, CENTRES, STD, key)
    np.testing.assert_array_equal(scores.counts, by_hand(samples))
    wider = score(samples, CENTRES, STD, key, radius=4.)
    np.testing.assert_array_equal(wider.counts, by_hand(samples, radius=4.))


def test_the_data_themselves_are_within_three_deviations_as_often_as_rayleigh_says(key):
    rng = np.random.default_rng(20)
    samples = CENTRES[rng.integers(4, size=20_000)] + STD * rng.normal(size=(20_000, 2))
    share, error = score(samples, CENTRES, STD, key, resamples=2).high_quality
    assert abs(share - stats.rayleigh.cdf(3)) < 4 * error
    assert 0 < error < 1e-3


@pytest.mark.thorough
def test_errors_are_those_of_drawing_the_samples_again(key):
    """Against many independent draws of a generator that favours some modes."""
    rng, number = np.random.default_rng(20), 300
    shares = [0.5, 0.3, 0.1, 0.002]

    def draw():
        modes = rng.choice(5, size=number, p=[*shares, 1 - sum(shares)])
        return np.append(CENTRES, [[9., 9.]], axis=0)[modes]

    drawn = [score(draw(), CENTRES, STD, key) for _ in range(200)]
    for name in ('high_quality', 'reverse_kl'):
        values, errors = np.array([getattr(scores, name) for scores in drawn]).T
        # The standard error of a deviation from 200 values is 5 %.
        np.testing.assert_allclose(errors.mean(), values.std(ddof=1), rtol=0.2)
    captured, errors = np.array([scores.captured for scores in drawn]).T
    assert 0 < errors.mean() < 2 * captured.std(ddof=1)


@pytest.mark.parametrize('counts, expected', [
    ([5, 5, 5, 5], 0.), ([7, 0, 0, 0], math.log(4)), ([0, 0, 0, 0], math.log(4))])
def test_divergence_of_the_plain_cases(counts, expected):
    np.testing.assert_allclose(reverse_kl(np.array(counts)), expected, atol=1e-12)


@pytest.mark.parametrize('samples, centres, resamples, message', [
    (np.zeros((3, 3)), CENTRES, 9, r'\[N, D\] and \[K, D\]'),
    (np.zeros(2), CENTRES, 9, r'\[N, D\] and \[K, D\]'),
    (np.zeros((0, 2)), CENTRES, 9, 'N >= 1'),
    (np.zeros((3, 2)), CENTRES, 1, 'two at least')])
def test_refuses_what_it_cannot_count(samples, centres, resamples, message, key):
    with pytest.raises(ValueError, match=message):
        mode_scores(samples, centres, STD, key, resamples=resamples)


def projected(x, y, key, count):
    slopes = np.asarray(directions(key, count, x.shape[1], x.dtype))
    return [(x @ u, y @ u) for u in slopes]


@pytest.mark.parametrize('rows', [40, 25], ids=['equal numbers', 'unequal numbers'])
def test_sliced_wasserstein_is_the_mean_of_scipys(rows, key):
    rng = np.random.default_rng(20)
    x, y = rng.normal(size=(40, 3)), rng.exponential(size=(rows, 3))
    ours = sliced_wasserstein(x, y, key, projections=20, order=1.)
    theirs = [wasserstein_distance(a, b) for a, b in projected(x, y, key, 20)]
    np.testing.assert_allclose(ours.mean, np.mean(theirs), rtol=1e-10)
    np.testing.assert_allclose(ours.error, stats.sem(theirs), rtol=1e-10)


@pytest.mark.parametrize('rows', [40, 25])
@pytest.mark.parametrize('order', [1., 2., 3.])
def test_sliced_wasserstein_is_that_of_pot(order, rows, key):
    rng = np.random.default_rng(20)
    x, y = rng.normal(size=(40, 3)), rng.exponential(size=(rows, 3))
    theirs = ot.sliced_wasserstein_distance(
        x, y, projections=np.asarray(directions(key, 20, 3, x.dtype)).T, p=order)
    ours = sliced_wasserstein(x, y, key, projections=20, order=order)
    np.testing.assert_allclose(ours.mean, theirs, rtol=1e-10)


def test_of_order_two_it_is_that_of_repeated_points(key):
    rng = np.random.default_rng(20)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(4, 2))
    squares = [np.mean((np.sort(np.repeat(a, 2)) - np.sort(np.repeat(b, 3))) ** 2)
               for a, b in projected(x, y, key, 16)]
    ours = sliced_wasserstein(x, y, key, projections=16)
    np.testing.assert_allclose(ours.mean, np.mean(squares) ** 0.5, rtol=1e-10)
    np.testing.assert_allclose(
        ours.error, stats.sem(squares) / (2 * np.mean(squares) ** 0.5), rtol=1e-10)


def test_of_a_shift_it_is_known(key):
    """E (u's)^2 = |s|^2 / D, of any cloud that is shifted by s."""
    x = np.random.default_rng(20).normal(size=(50, 3))
    distance, error = sliced_wasserstein(x, x + np.array([[3., 0., 4.]]), key,
                                         projections=2000)
    assert abs(distance - 5 / math.sqrt(3)) < 4 * error < 0.3


@pytest.mark.parametrize('shape, options, message', [
    ((4, 3), {}, 'equal width'), ((4,), {}, 'equal width'),
    ((4, 2), {'projections': 1}, 'two projections'), ((4, 2), {'order': 0.5}, 'order')])
def test_refuses_what_has_no_distance(shape, options, message, key):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(np.zeros((5, 2)), np.zeros(shape), key, **options)
