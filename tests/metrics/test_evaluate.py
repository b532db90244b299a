"""Everything at once, on the model of which everything is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm.metrics import Refinement, evaluate_vae, novel_share, unique_share
from tests.metrics import linear

X = linear.draw(300)
SIZES = {'num_samples': 60, 'chunk_size': 32, 'batch_size': 128, 'refined': 3,
         'refinement': Refinement(steps=100, final_samples=500)}


@pytest.fixture(scope='module')
def seen():
    return []


@pytest.fixture(scope='module')
def report(seen):
    return evaluate_vae(linear.EXACT, X, jax.random.key(20), **linear.MODEL, **SIZES,
                        betas=(0.5, 1., 3.),
                        progress=lambda *progress: seen.append(progress))


@pytest.mark.thorough
def test_the_dict_is_flat_and_of_numbers(report):
    assert all(type(value) is float for value in report.values())
    for name in ('neg_elbo', 'kl', 'reconstruction', 'nll', 'mutual_information',
                 'amortisation_gap', 'bits_per_dimension'):
        assert report[f'{name}_error'] > 0
    assert [name for name in report if name.startswith('kl_dimension')] == [
        'kl_dimension_0', 'kl_dimension_1', 'kl_dimension_2']


@pytest.mark.thorough
def test_numbers_are_those_of_the_closed_form(report):
    nll = linear.exact_nll(X).mean()
    # The weights are all the likelihood when the encoder is the posterior.
    np.testing.assert_allclose(report['nll'], nll, rtol=1e-10)
    assert abs(report['neg_elbo'] - nll) < 3 * report['neg_elbo_error']
    np.testing.assert_allclose(report['kl'], linear.exact_kl(X).sum(1).mean())
    assert abs(report['mutual_information'] - linear.exact_information()) < (
        3 * report['mutual_information_error'])
    np.testing.assert_allclose(report['bits_per_dimension'], nll / 6 / math.log(2))
    np.testing.assert_allclose(
        report['aggregate_kl'], report['kl'] - report['mutual_information'])
    assert report['mutual_information_cap'] == math.log(300)
    assert report['active_units'] == report['active_units_above_0.01'] == 2
    assert abs(report['amortisation_gap']) < 0.05


@pytest.mark.thorough
def test_the_curve_has_a_point_for_each_beta(report):
    rates, distortions = (np.array([report[f'{name}_at_beta_{beta}'] for beta in (
        '0.5', '1', '3')]) for name in ('rate', 'distortion'))
    assert (np.diff(rates) < 0).all() and (np.diff(distortions) > 0).all()
    # At beta = 1 their sum is -ELBO, which the exact posterior makes the NLL.
    nll = linear.exact_nll(X[:SIZES['refined']]).mean()
    np.testing.assert_allclose(rates[1] + distortions[1], nll, atol=0.05)


@pytest.mark.thorough
def test_progress_is_reported_for_every_long_metric(report, seen):
    jax.effects_barrier()
    assert {metric for metric, *_ in seen} == {
        'elbo', 'nll', 'information', 'refinement'}
    assert ('nll', 300, 300) in seen


@pytest.mark.parametrize('change, message', [
    ({'encode': lambda p, x: (jnp.zeros((len(x), 0)),) * 2}, 'the latent has size 0'),
    ({'num_samples': 0}, 'num_samples 0'),
    ({'betas': (1., 0.)}, r'betas holds 0\.0'),
    ({'betas': (1.,), 'log_prior': lambda p, z: z[:, 0]}, 'leave one of them out'),
    ({'decode': lambda p, z: linear.decode(p, z) * jnp.inf},
     'log weights of 4 of 4 examples are not finite, first of example 0')])
def test_bad_input_is_one_clear_line(change, message, key):
    with pytest.raises(ValueError, match=message):
        evaluate_vae(linear.EXACT, X[:4], key, **(linear.MODEL | SIZES | change))


def test_shares_of_texts():
    samples = ['ann', 'bob', 'ann', 'eve']
    assert unique_share(samples).mean == 0.75
    assert novel_share(samples, {'ann', 'eve'}).mean == 0.25
    with pytest.raises(ValueError, match='no sample'):
        unique_share([])
