import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdgm.models import text_vae

MODEL = text_vae(3, 4, latent_size=2, hidden=3, embedding=2, word_dropout=0.5)
Z = np.random.default_rng(20).normal(size=(1, 2))


@pytest.fixture
def params(fill):
    return fill(MODEL.init)


def all_log_probabilities(model, params, z):
    """log p(x|z) of every sequence of four of three tokens, float64[81]."""
    every = jnp.array(list(itertools.product(range(3), repeat=4)))
    return jax.jit(model.log_likelihood)(
        params, jnp.broadcast_to(z, (81, z.shape[1])), every)


@pytest.mark.thorough
def test_probabilities_of_all_sequences_sum_to_one(params):
    log_p = all_log_probabilities(MODEL, params, Z)
    np.testing.assert_allclose(jax.nn.logsumexp(log_p), 0, atol=1e-9)
    assert np.std(log_p) > 0.1


def test_samples_are_as_frequent_as_they_are_probable(params, key):
    expected = np.exp(all_log_probabilities(MODEL, params, Z))
    drawn = np.asarray(jax.jit(MODEL.sample)(params, jnp.tile(Z, (20_000, 1)), key))
    seen = np.bincount(drawn @ [27, 9, 3, 1], minlength=81)
    keep = expected * 20_000 > 5
    pooled = [*seen[keep], seen[~keep].sum()], [*expected[keep], expected[~keep].sum()]
    assert stats.chisquare(pooled[0], np.array(pooled[1]) * 20_000).pvalue > 1e-3


@pytest.mark.thorough
def test_only_the_tokens_within_the_length_count(params):
    x = jnp.array([[0, 2, 1, 1], [0, 2, 0, 2]]), jnp.array([2, 2])
    log_p = MODEL.log_likelihood(params, jnp.tile(Z, (2, 1)), x)
    np.testing.assert_allclose(log_p[0], log_p[1], rtol=1e-12)
    mean, _ = MODEL.encode(params, x)
    np.testing.assert_allclose(mean[0], mean[1], rtol=1e-12)
    whole, _ = MODEL.encode(params, (x[0], jnp.array([4, 4])))
    assert np.any(whole[0] != whole[1])


@pytest.mark.thorough
def test_word_dropout_hides_what_came_before(params, key):
    x, z = jnp.array([[0, 2, 1, 1]] * 8), jnp.tile(Z, (8, 1))
    plain = MODEL.log_likelihood(params, z, x)
    assert len(set(np.asarray(MODEL.log_likelihood(params, z, x, key)).tolist())) > 2
    assert len(set(np.asarray(plain).tolist())) == 1


def test_the_skip_adds_a_linear_map_of_the_latent_to_the_logits(params):
    x, z = jnp.array([[0, 2, 1, 1]]), jnp.asarray(Z)
    plain = text_vae(3, 4, latent_size=2, hidden=3, embedding=2, skip=False)
    state, latent = jnp.split(params['decoder']['logits']['kernel'], [3])
    assert latent.shape == (2, 3)
    logits = params['decoder']['logits']
    given = {'logits': {'kernel': state, 'bias': logits['bias'] + Z[0] @ latent}}
    np.testing.assert_allclose(
        plain.log_likelihood({'decoder': {**params['decoder'], **given}}, z, x),
        MODEL.log_likelihood(params, z, x), rtol=1e-12)
    assert jax.eval_shape(plain.init, jax.random.key(0))['decoder']['logits'][
        'kernel'].shape == (3, 3)


def test_without_a_latent_it_is_a_language_model(fill):
    model = text_vae(3, 4, latent_size=0, hidden=3, embedding=2)
    params = fill(model.init)
    assert set(params) == {'decoder'}
    log_p = all_log_probabilities(model, params, np.zeros((1, 0)))
    np.testing.assert_allclose(jax.nn.logsumexp(log_p), 0, atol=1e-9)


@pytest.mark.parametrize('sizes, message', [
    ({'latent_size': -1}, 'whole numbers > 0'), ({'length': 0}, 'whole numbers > 0'),
    ({'word_dropout': 1.}, 'a share from 0 to 1')])
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        text_vae(**({'vocabulary': 3, 'length': 4, 'latent_size': 2} | sizes))
