"""How samples are judged: each number against a closed form or the published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from sklearn.metrics import pairwise_distances

from cdgm import metrics


def random(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def test_frechet_distance_is_that_of_the_matrix_square_root():
    x, y = random(0, 200, 6) @ random(1, 6, 6), random(2, 150, 6) * 2 + 1
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b)
    expected = (np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b)
                - 2 * np.trace(root).real)
    found = metrics.frechet_distance(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_frechet_distance_of_diagonal_gaussians():
    # Four points of a square: means and standard deviations are exact.
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1.]]) * np.sqrt(3) / 2
    x, y = square * [[1, 2]], square * [[3, 5]] + [[1, 0]]
    found = metrics.frechet_distance(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, 1 + (3 - 1) ** 2 + (5 - 2) ** 2, rtol=1e-12)


def test_frechet_distance_stays_real_where_points_are_few_or_alike():
    """The root of A B is complex there by rounding, or not a number."""
    few = random(3, 5, 64)
    alike = np.repeat(few[:1], 5, axis=0)
    for x, y in ((few, few), (few, alike), (alike, alike), (few, random(4, 90, 64))):
        with jax.enable_x64(False):
            x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
            found = float(metrics.frechet_distance(x, y))
        assert np.isfinite(found) and found > -1e-2
    assert float(metrics.frechet_distance(jnp.asarray(few), jnp.asarray(few))) < 1e-9


@pytest.mark.parametrize('x, y', [((5,), (5, 1)), ((5, 2), (5, 3)), ((1, 2), (5, 2))])
def test_frechet_distance_refuses_what_are_no_clouds(x, y):
    with pytest.raises(ValueError, match='two matrices of equal width'):
        metrics.frechet_distance(jnp.zeros(x), jnp.zeros(y))


@pytest.mark.thorough
def test_inception_score():
    logits = 3 * random(5, 40, 7)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    kl = np.sum(p * np.log(p / p.mean(0)), axis=1)
    np.testing.assert_allclose(metrics.inception_score(jnp.asarray(logits)),
                               np.exp(kl.mean()), rtol=1e-12)
    sure = 1e4 * jnp.eye(7)[jnp.arange(14) % 7]
    np.testing.assert_allclose(metrics.inception_score(sure), 7, rtol=1e-12)
    np.testing.assert_allclose(metrics.inception_score(sure[:1].repeat(5, 0)), 1)


def prdc(real, fake, k):
    """As the authors publish it, without their helpers for many processes."""
    def radii(points):
        return np.sort(pairwise_distances(points), axis=1)[:, k]  # 0 is itself

    apart = pairwise_distances(real, fake)
    real_radii, fake_radii = radii(real), radii(fake)
    return ((apart < real_radii[:, None]).any(0).mean(),
            (apart < fake_radii[None]).any(1).mean(),
            (apart < real_radii[:, None]).sum(0).mean() / k,
            (apart.min(1) < real_radii).mean())


@pytest.mark.parametrize('k', [1, 5])
@pytest.mark.thorough
def test_precision_recall_density_coverage_are_prdcs(k):
    real, fake = random(6, 60, 8) + 100, random(7, 45, 8) * 1.2 + 100.3
    found = metrics.precision_recall_density_coverage(
        jnp.asarray(real), jnp.asarray(fake), k)
    np.testing.assert_allclose(found, prdc(real, fake, k), rtol=1e-6)  # float32


def test_density_and_coverage_of_one_law():
    """Naeem et al., lemma 1: E density = 1, and coverage tends to 1 - 2^-k."""
    real, fake = random(8, 1000, 4), random(9, 1000, 4)
    found = metrics.precision_recall_density_coverage(
        jnp.asarray(real), jnp.asarray(fake))
    assert abs(float(found.density) - 1) < 0.1
    error = np.sqrt(2 ** -5 * (1 - 2 ** -5) / 1000)
    assert abs(float(found.coverage) - (1 - 2 ** -5)) < 5 * error


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match='5 real points and 9 samples'):
        metrics.precision_recall_density_coverage(jnp.zeros((5, 2)), jnp.zeros((9, 2)))


def test_nearest_distances():
    train, samples = random(10, 50, 30), random(11, 20, 30)
    samples[3] = train[7]  # a copy
    found = metrics.nearest_distances(jnp.asarray(samples), jnp.asarray(train))
    np.testing.assert_allclose(found, pairwise_distances(samples, train).min(1),
                               atol=1e-6)
    assert float(found[3]) < 1e-6


def clouds(key, count):
    """Three classes on the corners of a triangle, and their labels."""
    labels = jnp.arange(count) % 3
    corners = 6 * jnp.array([[0., 0.], [1., 0.], [0., 1.]])
    return corners[labels] + jax.random.normal(key, (count, 2)), labels


@pytest.fixture(scope='module')
def judged():
    """name -> Judged, by a linear classifier that is trained here."""
    key = jax.random.key(0)
    x, labels = clouds(key, 300)

    def logits(params, x):
        return x @ params['w'] + params['b'][None]

    def init(key):
        return {'w': jnp.zeros((2, 3)), 'b': jnp.zeros(3)}

    train = jax.jit(lambda x, labels, key: metrics.train_classifier(
        init, logits, x, labels, key, epochs=60, batch_size=50, learning_rate=0.1))
    params = train(x, labels, key)
    again = train(x, labels, key)
    assert metrics.params_sha256(params) == metrics.params_sha256(again)
    assert metrics.params_sha256(params) != metrics.params_sha256(init(key))

    def judge(x, labels):
        return metrics.Judged(x, x, logits(params, x), labels)

    test, asked = clouds(jax.random.key(1), 90)
    return {'train': judge(x, labels), 'test': judge(test, asked), 'judge': judge}


@pytest.mark.thorough
def test_the_classifier_learns(judged):
    # Corners are six standard deviations apart: Bayes' error is 2 Phi(-3).
    assert float(metrics.accuracy(judged['test'])) > 0.97


@pytest.mark.thorough
def test_scores_of_good_samples_and_of_collapsed_ones(judged):
    x, labels = clouds(jax.random.key(2), 300)
    good = metrics.evaluate_samples(judged['judge'](x, labels), judged['train'],
                                    judged['test'])
    assert good['accuracy'] > 0.97 and good['classes'] == 3
    assert good['inception_score'] > 2.8 and good['frechet'] < 0.5
    assert abs(good['density'] - 1) < 0.3 and good['coverage'] > 0.9
    assert good['nearest_low'] > 0
    one = jnp.where(jnp.ones((300, 1), bool), x[:1], 0)
    bad = metrics.evaluate_samples(judged['judge'](one, labels), judged['train'],
                                   judged['test'])
    assert bad['classes'] == 1 and bad['coverage'] < 0.05 and bad['recall'] < 0.05
    np.testing.assert_allclose(bad['accuracy'], 1 / 3)
    np.testing.assert_allclose(bad['inception_score'], 1, atol=1e-6)
    assert bad['frechet'] > 5
    copied = metrics.evaluate_samples(judged['train'], judged['train'], judged['test'])
    np.testing.assert_allclose(copied['nearest_median'], 0, atol=1e-6)


@pytest.mark.thorough
def test_samples_that_nothing_was_asked_of_have_no_accuracy(judged):
    found = metrics.evaluate_samples(judged['test']._replace(labels=None),
                                     judged['train'], judged['test'])
    assert 'accuracy' not in found and 'inception_score' in found


def test_a_classifier_that_did_not_learn_is_refused(judged):
    blind = judged['test']._replace(logits=jnp.zeros((90, 3)))
    with pytest.raises(ValueError, match='knows 33.3% of the 90 test examples of 3'):
        metrics.evaluate_samples(blind, judged['train'], blind)


def test_too_few_samples_are_refused(judged):
    few = jax.tree.map(lambda x: x[:80], judged['test'])
    with pytest.raises(ValueError, match='there are 80 samples and 90 test examples'):
        metrics.evaluate_samples(few, judged['train'], judged['test'])


def test_too_few_examples_to_train_on():
    with pytest.raises(ValueError, match='3 examples and a batch is 64'):
        metrics.train_classifier(lambda key: {}, lambda params, x: x, jnp.zeros((3, 2)),
                                 jnp.zeros(3, int), jax.random.key(0))
