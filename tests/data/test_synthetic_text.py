import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from cdgm.data.synthetic_text import (
    draw_latents, draw_sentences, log_likelihood, make_generator, synthetic_text)

GENERATOR = make_generator(jax.random.key(3), vocabulary=6, hidden=4)


def log_probabilities(sentence, latent):
    """Of each next word, by an LSTM written out in NumPy; float64[T - 1, V]."""
    weights = [np.asarray(w, float) for w in GENERATOR]
    embedding, inputs, recurrent, bias, words, of_latent = weights
    cell, hidden, rows = np.zeros(4), np.zeros(4), []
    for word in sentence[:-1]:
        gates = embedding[word] @ inputs + hidden @ recurrent + bias
        into, forget, new, out = np.split(gates, 4)
        cell = special.expit(forget) * cell + special.expit(into) * np.tanh(new)
        hidden = special.expit(out) * np.tanh(cell)
        rows.append(special.log_softmax(hidden @ words + latent @ of_latent))
    return np.array(rows)


def test_weights_are_uniform_and_those_of_the_latent_five_times_as_wide():
    big = make_generator(jax.random.key(0), vocabulary=300, hidden=50)
    for name, weight in big._asdict().items():
        bound = 5 if name == 'latent' else 1
        law = stats.uniform(-bound, 2 * bound)
        assert stats.kstest(np.asarray(weight).ravel()[:5000], law.cdf).pvalue > 1e-3


def test_latents_are_the_mixture_of_four():
    z = np.asarray(draw_latents(jax.random.key(0), 40_000))
    np.testing.assert_allclose(z.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(z.T), 5 * np.eye(2), atol=0.1)
    right_up = z[(z > 0).all(1)]
    np.testing.assert_allclose(len(right_up) / len(z), 1 / 4, atol=0.01)


def test_the_likelihood_is_that_of_an_lstm_written_out():
    rng = np.random.default_rng(20)
    sentences, z = rng.integers(6, size=(3, 5)), rng.normal(size=(3, 2))
    expected = [-np.log(6) + np.take_along_axis(
        log_probabilities(sentence, latent), sentence[1:, None], 1).sum()
        for sentence, latent in zip(sentences, z)]
    got = jax.jit(log_likelihood)(GENERATOR, jnp.asarray(sentences), jnp.asarray(z))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_words_are_drawn_as_often_as_they_are_probable(key):
    z = jnp.tile(jnp.array([[0.1, -0.2]]), (20_000, 1))
    drawn = np.asarray(jax.jit(draw_sentences, static_argnums=3)(GENERATOR, z, key, 2))
    first = np.bincount(drawn[:, 0], minlength=6)
    assert stats.chisquare(first).pvalue > 1e-3
    after = drawn[drawn[:, 0] == 2, 1]
    expected = np.exp(log_probabilities([2, 0], np.array([0.1, -0.2]))[0])
    assert stats.chisquare(np.bincount(after, minlength=6),
                           expected * len(after)).pvalue > 1e-3


@pytest.mark.thorough
def test_the_set_has_the_splits_of_the_definition():
    data, _ = synthetic_text(30, vocabulary=6)
    shapes = [split.examples.shape for split in (data.train, data.validation,
                                                 data.test)]
    assert shapes == [(24, 10), (3, 10), (3, 10)]
    with pytest.raises(ValueError, match='at least ten'):
        synthetic_text(9)
