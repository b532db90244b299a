"""The doctor on planted ailments: evaluations of models that are broken on purpose.

The healthy patient is the linear model at its optimum, see `tests.metrics.linear`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cdgm
from cdgm.losses import gaussian_log_likelihood
from cdgm.metrics import Refinement, evaluate_vae
from tests.metrics import linear

X = linear.draw(120)


def evaluate(gap=False, sigma=linear.SIGMA, params=linear.EXACT, **change):
    model = linear.MODEL | {
        'log_likelihood': lambda m, x: gaussian_log_likelihood(m, x, sigma),
        'standardise': lambda m, x: (x - m) / sigma} | change
    return evaluate_vae(params, X, jax.random.key(20), **model, num_samples=10,
                        chunk_size=10, batch_size=120, refined=20, gap=gap,
                        refinement=Refinement(steps=60, final_samples=200))


@pytest.fixture(scope='module')
def healthy():
    return evaluate(gap=True)


def ailments(report):
    return [finding.ailment for finding in cdgm.diagnose(report)]


@pytest.mark.thorough
def test_nothing_is_found_in_a_healthy_model(healthy):
    own = {'training_reconstruction': healthy['reconstruction'],
           'training_kl': healthy['kl']}
    assert ailments(healthy | own) == []


@pytest.mark.thorough
def test_a_collapsed_posterior():
    def prior(params, x):
        return (jnp.zeros((len(x), 3)),) * 2
    report = evaluate(encode=prior)
    assert 'collapsed' in ailments(report)
    words = cdgm.diagnose(report)[0].words
    assert 'KL 0 nats' in words and '0 of 3 units' in words


@pytest.mark.thorough
def test_a_decoder_that_ignores_the_latent():
    def constant(params, latent):
        return jnp.zeros((len(latent), 6))
    found = ailments(evaluate(decode=constant))
    assert 'latent ignored' in found and 'collapsed' not in found


@pytest.mark.thorough
def test_an_encoder_that_lags():
    assert 'encoder lags' in ailments(evaluate(gap=True, params=(1., 0.4)))


@pytest.mark.thorough
def test_a_sigma_that_does_not_fit():
    report = evaluate(sigma=linear.SIGMA / 10)
    finding, = [f for f in cdgm.diagnose(report) if f.ailment == 'scale']
    assert 'too small' in finding.words and 'the KL, which is irrelevant' in (
        finding.words)
    large = {**report, 'standardised_error': 0.01}
    assert any('too large' in f.words for f in cdgm.diagnose(large))


@pytest.mark.thorough
def test_sums_and_means_that_are_mixed(healthy):
    """A loss that averages over the pixels what it should sum."""
    x = jnp.asarray(X)
    decoded = linear.decode(linear.EXACT, linear.encode(linear.EXACT, x)[0])
    log_p = jax.scipy.stats.norm.logpdf(x, decoded, linear.SIGMA)
    report = healthy | {'training_reconstruction': -float(log_p.mean())}
    assert ailments(report) == ['sums and means']
    kl = float(np.mean(linear.exact_kl(X)))
    assert ailments(healthy | {'training_kl': kl}) == ['sums and means, KL']


@pytest.mark.thorough
def test_information_at_its_cap(healthy):
    full = healthy | {'mutual_information': healthy['mutual_information_cap'] - 0.1}
    assert ailments(full) == ['too few examples']


def test_what_is_not_there_is_not_checked():
    assert cdgm.diagnose({}) == []
    with pytest.raises(ValueError, match='not finite'):
        evaluate(sigma=np.nan)
