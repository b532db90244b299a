"""The linear variational autoencoder, which is probabilistic PCA.

    p(z) = N(0, I)    p(x|z) = N(W z + b, s^2 I)    q(z|x) = N(V (x - c), S)

S is diagonal, exp logvar, the same for every x. That is enough: the optimum of -ELBO
over all of it is the maximum of the likelihood, where the columns of W may be chosen
orthogonal and the posterior is diagonal. (It is also slow: a rotation of z, of which
the likelihood knows nothing, must be found.) Everything is known there:

    W = U_q (L_q - s^2 I)^(1/2),   s^2 = mean_{j > q} l_j,   b = mean of the data
    -log p(x) averaged = (D log 2 pi + sum_{j <= q} log l_j + (D - q) log s^2 + D) / 2

l_1 >= ... >= l_D eigenvalues of the data's covariance C, U_q its first q eigenvectors.

Shapes   B batch, D dimensions (an image is flattened), Z latent_size, N examples.
Units    nats per example.
Sources  Tipping & Bishop 1999, J. R. Stat. Soc. B 61(3), eqs. 7 and 8; Lucas et al.
         2019 (arXiv:1911.02469) section 4 (the ELBO has no other maxima).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.models.vae import VAE


class PpcaOptimum(NamedTuple):
    """The maximum of the likelihood in closed form.

    Attributes:
      nll: -log p(x) averaged over the data, nats.
      weight: float64[D, Z], W with orthogonal columns, longest first.
      bias: float64[D], b.
      noise: s^2.
      information: I(x; z) of the model at its optimum, nats.
    """

    nll: float
    weight: np.ndarray
    bias: np.ndarray
    noise: float
    information: float


def linear_vae(dimensions: int, latent_size: int) -> VAE:
    """Build a linear VAE on flat data, float[B, D].

    Its decoder gives (mean, log sigma), what the likelihood of a learned sigma takes.
    Parameters: encoder: weight float[Z, D], bias float[Z], logvar float[Z]; decoder:
    weight float[D, Z], bias float[D], log_sigma float[].

    Raises:
      ValueError: there are not more dimensions than latents, or no latent.

    >>> model = linear_vae(6, 2)
    >>> params = model.init(jax.random.key(0))
    >>> mean, log_sigma = model.decode(params, jnp.zeros((5, 2)))
    >>> mean.shape, log_sigma.shape
    ((5, 6), ())
    """
    if not 0 < latent_size < dimensions:
        raise ValueError(f'latent_size is {latent_size} and the data have {dimensions} '
                         'dimensions; give a latent from 1 to one less.')

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        scale = 1 / math.sqrt(dimensions)
        return {
            'encoder': {
                'weight': scale * jax.random.normal(encoder_key,
                                                    (latent_size, dimensions)),
                'bias': jnp.zeros(latent_size), 'logvar': jnp.zeros(latent_size)},
            'decoder': {
                'weight': scale * jax.random.normal(decoder_key,
                                                    (dimensions, latent_size)),
                'bias': jnp.zeros(dimensions), 'log_sigma': jnp.zeros(())}}

    def encode(params, x):
        encoder = params['encoder']
        mean = x @ encoder['weight'].T + encoder['bias'].reshape(1, -1)
        return mean, jnp.broadcast_to(encoder['logvar'].reshape(1, -1), mean.shape)

    def decode(params, latent):
        decoder = params['decoder']
        return (latent @ decoder['weight'].T + decoder['bias'].reshape(1, -1),
                decoder['log_sigma'])

    return VAE(init, encode, decode, latent_size)


def linear_nll(params: Any, examples: np.ndarray) -> float:
    """-log p(x) averaged over the data, exactly, in float64; nats."""
    decoder = {name: np.asarray(leaf, float)
               for name, leaf in params['decoder'].items()}
    x = np.asarray(examples, float) - decoder['bias']
    model = (decoder['weight'] @ decoder['weight'].T
             + np.exp(2 * decoder['log_sigma']) * np.eye(x.shape[1]))
    _, log_det = np.linalg.slogdet(model)
    squares = np.sum(x * np.linalg.solve(model, x.T).T, axis=1)
    return float(np.mean(x.shape[1] * math.log(2 * math.pi) + log_det + squares) / 2)


def diagonalise(params: Any) -> dict[str, Any]:
    """Rotate a linear VAE so that its posterior is diagonal, and make its encoder it.

    The likelihood does not change: W R with a rotation R has the same W W'.

    Args:
      params: of `linear_vae`, the encoder's spread in any form.

    Returns:
      params of `linear_vae` in float64, whose -ELBO is -log p(x).
    """
    decoder = {name: np.asarray(leaf, float)
               for name, leaf in params['decoder'].items()}
    left, lengths, _ = np.linalg.svd(decoder['weight'], full_matrices=False)
    weight, noise = left * lengths, np.exp(2 * decoder['log_sigma'])
    precision = lengths ** 2 + noise
    inverse = (weight / precision).T
    return {'encoder': {'weight': inverse, 'bias': -inverse @ decoder['bias'],
                        'logvar': np.log(noise / precision)},
            'decoder': {**decoder, 'weight': weight}}


def ppca_optimum(examples: np.ndarray, latent_size: int) -> PpcaOptimum:
    """The best linear VAE of that latent, in closed form.

    Args:
      examples: float[N, D].
      latent_size: Z < D.

    Raises:
      ValueError: the smallest D - Z eigenvalues vanish, so that the likelihood has no
        maximum (constant dimensions, or fewer examples than dimensions).

    >>> x = np.array([[3., 0.], [-3., 0.], [0., 1.], [0., -1.]])
    >>> best = ppca_optimum(x, 1)
    >>> round(best.noise, 4), round(float(abs(best.weight[0, 0])), 4)
    (0.5, 2.0)
    """
    x = np.asarray(examples, float)
    bias = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    dimensions = x.shape[1]
    noise = float(values[latent_size:].mean())
    if not noise > 1e-12 * values[0]:
        raise ValueError(
            f'the {dimensions - latent_size} smallest variances of the data vanish, so '
            'the likelihood has no maximum; drop constant dimensions, give more '
            'examples or fewer latents.')
    leading = values[:latent_size]
    weight = vectors[:, :latent_size] * np.sqrt(leading - noise)
    nll = (dimensions * math.log(2 * math.pi) + np.log(leading).sum()
           + (dimensions - latent_size) * math.log(noise) + dimensions) / 2
    return PpcaOptimum(float(nll), weight, bias, noise,
                       float(np.log(leading / noise).sum() / 2))
