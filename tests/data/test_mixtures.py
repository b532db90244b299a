import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import make_moons

from cdgm.data import mixtures


def test_the_ring_doubles_no_mode():
    """With both ends of the circle there would be seven modes, one twice as likely."""
    centres = mixtures.ring().centres
    gaps = np.linalg.norm(centres - np.roll(centres, 1, axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(gaps, 2 * np.sin(np.pi / 8), rtol=1e-6)


def test_the_grid_is_that_of_the_papers():
    expected = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert set(map(tuple, mixtures.grid().centres)) == expected
    assert mixtures.grid().std == 0.05 and mixtures.ring().std == 0.01


@pytest.mark.parametrize('mixture', [
    mixtures.ring(), mixtures.grid(), mixtures.ring(modes=5, radius=3., std=0.2)],
    ids=['ring', 'grid', 'wide ring'])
def test_points_are_normal_about_centres_that_are_equally_likely(mixture, key):
    points, modes = map(np.asarray, jax.jit(
        mixtures.draw, static_argnums=2)(mixture, key, 8000))
    assert stats.chisquare(np.bincount(modes, minlength=len(mixture.centres))
                           ).pvalue > 1e-3
    noise = (points - mixture.centres[modes]) / mixture.std
    assert stats.kstest(noise.ravel(), 'norm').pvalue > 1e-3
    assert abs(stats.pearsonr(*noise.T).statistic) < 4 / np.sqrt(8000)


@pytest.mark.thorough
def test_moons_lie_where_those_of_sklearn_do(key):
    points, moons = map(np.asarray, mixtures.two_moons(key, 2000, std=0.))
    ours = [points[moons == moon] for moon in (0, 1)]
    theirs, labels = make_moons(4000)
    for moon, mine in enumerate(ours):
        arc = theirs[labels == moon]
        away = np.linalg.norm(mine[:, None] - arc[None], axis=-1).min(axis=1)
        assert away.max() < np.pi / 2000  # the arcs' points are that far apart
        np.testing.assert_allclose([mine.min(0), mine.max(0)],
                                   [arc.min(0), arc.max(0)], atol=0.01)


@pytest.mark.thorough
def test_a_fixed_set_is_the_same_at_every_call():
    first, second = (mixtures.mixture_dataset('ring', mixtures.ring(), 50, 20)
                     for _ in range(2))
    assert first.train.examples.shape == (50, 2) and len(first.test.labels) == 20
    for ours, theirs in zip(jax.tree.leaves(first[1:4]), jax.tree.leaves(second[1:4])):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.isin(first.test.examples, first.train.examples).any()


@pytest.mark.parametrize('make', [
    lambda: mixtures.ring(modes=0), lambda: mixtures.ring(std=0.),
    lambda: mixtures.grid(side=-1), lambda: mixtures.grid(spacing=float('nan')),
    lambda: mixtures.mixture_dataset('ring', mixtures.ring(), train=0)])
def test_sizes_are_positive(make):
    with pytest.raises(ValueError, match='give a positive number'):
        make()
