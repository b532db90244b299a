"""A linear Gaussian model of which everything is known in closed form.

z ~ N(0, I), x|z ~ N(W z, s^2 I) with orthogonal columns of W, so the posterior is a
diagonal Gaussian: precision l_j / s^2 + 1, mean W_j' x / (l_j + s^2), l_j = |W_j|^2.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from scipy import stats

from cdgm.losses import gaussian_log_likelihood

SIGMA = 0.5
RNG = np.random.default_rng(20)
W = np.linalg.qr(RNG.normal(size=(6, 3)))[0] * np.array([[1.5, 0.7, 0.]])
LENGTHS = np.sum(W ** 2, axis=0)
VARIANCE = SIGMA ** 2 / (LENGTHS + SIGMA ** 2)
EXACT = (0., 0.)  # params at which the encoder is the posterior
POOR = (0.3, 0.4)


def draw(count):
    return (RNG.normal(size=(count, 3)) @ W.T + SIGMA * RNG.normal(size=(count, 6)))


def encode(params, x):
    shift, spread = params
    mean = x @ jnp.asarray(W / (LENGTHS + SIGMA ** 2)) + shift
    return mean, jnp.broadcast_to(jnp.log(VARIANCE) + spread, mean.shape)


def decode(params, latent):
    return latent @ jnp.asarray(W.T)


MODEL = {'encode': encode, 'decode': decode,
         'log_likelihood': partial(gaussian_log_likelihood, sigma=SIGMA)}


def exact_nll(x):
    return -stats.multivariate_normal(cov=W @ W.T + SIGMA ** 2 * np.eye(6)).logpdf(x)


def exact_kl(x, params=EXACT):
    """KL(q(z|x) || N(0, I)) of each dimension, float64[N, 3]."""
    mean, logvar = map(np.asarray, encode(params, x))
    return (mean ** 2 + np.exp(logvar) - 1 - logvar) / 2


def exact_gap(params):
    """KL(q || posterior), the same for every example."""
    shift, spread = params
    return np.sum(shift ** 2 / VARIANCE + np.exp(spread) - 1 - spread) / 2


def exact_information():
    """I(x; z) of a Gaussian channel: sum of log(1 + l_j / s^2) / 2."""
    return np.sum(np.log1p(LENGTHS / SIGMA ** 2)) / 2
