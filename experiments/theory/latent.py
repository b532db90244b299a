"""Linear latent variable models, minimised exactly one block at a time.

    autoencoder   mean_n |x_n - W V x_n|^2 / 2                      blocks V, W
    pPCA          -ELBO of p(x) = N(0, W W' + s I),                 blocks V and S (the
                  q(z|x) = N(V x, S), S a full covariance           encoder), W and 1/s

An exact encoder step of pPCA is the posterior, V = M^-1 W' and S = s M^-1 with M =
W'W + s I, so that -ELBO = -log p(x); an exact decoder step is EM's M step.

Legend   D dimensions, Q latents; l_1 >= ... >= l_D eigenvalues of C, the covariance of
         the data, which here have exactly these; all values in nats a data point.
Sources  Baldi & Hornik 1989, Neural Networks 2; Tipping & Bishop 1999, J. R. Stat. Soc.
         B 61(3), eqs. 7, 8 and 27 (optimum, EM); Neal & Hinton 1998 (EM as descent);
         Lucas et al. 2019 (arXiv:1911.02469) section 4 (collapse).
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import cdgm
from cdgm.moves import exact_minimisation, log_det_minimisation
from experiments.theory.rows import Row

KEY = jax.random.key(0)  # for losses that draw nothing
SPECTRUM = np.array([20., 4., 0.8, 0.05, 0.04])
D, Q = len(SPECTRUM), 2


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """Points float64[N, D] whose covariance is C exactly, and C's eigenvectors."""
    draw = np.random.default_rng(4)
    vectors, _ = np.linalg.qr(draw.normal(size=(D, D)))
    points, _ = np.linalg.qr(draw.normal(size=(40, D)))
    return np.sqrt(len(points)) * points * np.sqrt(SPECTRUM) @ vectors.T, vectors


def covariance() -> np.ndarray:
    vectors = data()[1]
    return vectors * SPECTRUM @ vectors.T


def start() -> np.ndarray:
    """Where W starts, float64[D, Q]."""
    return np.random.default_rng(5).normal(size=(D, Q))


def reconstruction(params, batch, key):
    """Half the mean squared distance of the data from what is decoded."""
    decoded = batch @ params['encoder'].T @ params['decoder'].T
    return jnp.sum((batch - decoded) ** 2) / (2 * len(batch)), None


@cache
def autoencoder(cycles: int):
    """(loss, W) before each cycle of exact encoder and decoder steps."""
    descent = cdgm.block_descent({
        name: cdgm.Block(name, reconstruction, exact_minimisation())
        for name in ('encoder', 'decoder')})

    @jax.jit
    def run(state, points):
        def body(state, _):
            after, infos = descent.cycle(state, points, KEY, ('encoder', 'decoder'))
            return after, (infos.loss[0], state.params['decoder'])
        return jax.lax.scan(body, state, length=cycles)[1]

    state = descent.init({'encoder': jnp.zeros((Q, D)), 'decoder': start()})
    return jax.tree.map(np.asarray, run(state, data()[0]))


def _tangent(weight) -> float:
    """Tangent of the largest angle between span W and the leading eigenvectors."""
    inside, outside = data()[1][:, :Q].T @ weight, data()[1][:, Q:].T @ weight
    return float(np.linalg.norm(outside @ np.linalg.inv(inside), 2))


def _projector(weight) -> np.ndarray:
    return weight @ np.linalg.pinv(weight)


def subspace_iteration():
    _, weights = autoencoder(12)
    power = np.linalg.matrix_power(covariance(), 3) @ start()
    distance = float(np.linalg.norm(_projector(weights[3]) - _projector(power)))
    return Row('linear autoencoder: span W_k = span C^k W_0, distance', 0, distance,
               'derived', tolerance=1e-10)


def subspace_rate():
    _, weights = autoencoder(12)
    return Row('linear autoencoder: angle shrinks by l_{q+1}/l_q a cycle',
               SPECTRUM[Q] / SPECTRUM[Q - 1],
               _tangent(weights[11]) / _tangent(weights[10]), 'derived', tolerance=1e-6)


def autoencoder_optimum():
    values, _ = autoencoder(12)
    return Row('linear autoencoder: optimum sum_{i>q} l_i/2', SPECTRUM[Q:].sum() / 2,
               values[-1], 'Baldi & Hornik 1989')


def neg_elbo(params, batch, key):
    """-ELBO of pPCA in nats, averaged over the batch."""
    encoder, decoder = params['encoder'], params['decoder']
    weight, precision = decoder['weight'], decoder['precision']
    mean, spread = batch @ encoder['weight'].T, encoder['covariance']
    squares = (jnp.sum((batch - mean @ weight.T) ** 2) / len(batch)
               + jnp.trace(weight.T @ weight @ spread))
    distortion = (precision * squares + D * jnp.log(2 * jnp.pi / precision)) / 2
    rate = (jnp.sum(mean ** 2) / len(batch) + jnp.trace(spread) - Q
            - jnp.linalg.slogdet(spread)[1]) / 2
    return distortion + rate, None


PPCA = cdgm.block_descent({
    'mean': cdgm.Block('encoder/weight', neg_elbo, exact_minimisation()),
    'covariance': cdgm.Block('encoder/covariance', neg_elbo, log_det_minimisation(1)),
    'weight': cdgm.Block('decoder/weight', neg_elbo, exact_minimisation()),
    'noise': cdgm.Block('decoder/precision', neg_elbo, log_det_minimisation(D))})
ENCODER, DECODER = ('mean', 'covariance'), ('weight', 'noise')
MOVES = 4000


def ppca_start(noise: float):
    return PPCA.init({
        'encoder': {'weight': jnp.zeros((Q, D)), 'covariance': jnp.eye(Q)},
        'decoder': {'weight': start(), 'precision': jnp.array(1 / noise)}})


@jax.jit
def _follow(state, points, blocks):
    def body(state, block):
        after, info = PPCA.step(state, points, KEY, block)
        return after, (info.loss, after.params['decoder'])

    return jax.lax.scan(body, state, blocks)


def _minimise(noise: float, order: tuple[str, ...]):
    """(final params, -ELBO before each move, decoders after each)."""
    indices = [list(PPCA.blocks).index(name) for name in order]
    blocks = np.resize(np.asarray(indices, np.int32), MOVES)
    state, (values, decoders) = _follow(ppca_start(noise), data()[0], blocks)
    return jax.tree.map(np.asarray, (state.params, values, decoders))


@cache
def ppca():
    """EM from a random start."""
    return _minimise(1., ENCODER + DECODER)


def log_likelihood(weight, noise) -> float:
    """log p(x) averaged over the data, which have covariance C."""
    model = weight @ weight.T + noise * np.eye(D)
    return -(D * np.log(2 * np.pi) + np.linalg.slogdet(model)[1]
             + np.trace(np.linalg.solve(model, covariance()))) / 2


def exact_encoder_is_tight():
    _, values, _ = ppca()
    return Row('pPCA: -ELBO = -log p(x) after an exact encoder step',
               -log_likelihood(start(), 1.), values[len(ENCODER)],
               'Neal & Hinton 1998', tolerance=1e-12)


def exact_decoder_is_em():
    _, _, decoders = ppca()
    c, weight, noise = covariance(), start(), 1.
    m_inverse = np.linalg.inv(weight.T @ weight + noise * np.eye(Q))
    inner = noise * np.eye(Q) + m_inverse @ weight.T @ c @ weight
    after = c @ weight @ np.linalg.inv(inner)
    noise_after = np.trace(c - c @ weight @ m_inverse @ after.T) / D
    decoder = jax.tree.map(lambda leaf: leaf[len(ENCODER + DECODER) - 1], decoders)
    distance = (np.linalg.norm(decoder['weight'] - after)
                + abs(1 / decoder['precision'] - noise_after))
    return Row('pPCA: encoder and decoder step are one step of EM', 0, distance,
               'Tipping & Bishop 1999', tolerance=1e-12)


def monotone():
    _, values, _ = ppca()
    return Row('pPCA: no half step raises -ELBO, largest rise', 0,
               np.diff(values).max(), 'Neal & Hinton 1998', relation='<=',
               tolerance=1e-13)


def optimum_likelihood():
    params, *_ = ppca()
    noise = SPECTRUM[Q:].mean()
    best = -(D * np.log(2 * np.pi) + np.log(SPECTRUM[:Q]).sum()
             + (D - Q) * np.log(noise) + D) / 2
    found = log_likelihood(params['decoder']['weight'],
                           1 / params['decoder']['precision'])
    return Row('pPCA: log p(x) at the end is the closed optimum', best, found,
               'Tipping & Bishop 1999', tolerance=1e-10)


def optimum_noise():
    params, *_ = ppca()
    return Row('pPCA: noise at the end is mean_{i>q} l_i', SPECTRUM[Q:].mean(),
               1 / params['decoder']['precision'], 'Tipping & Bishop 1999')


def optimum_weight():
    params, *_ = ppca()
    weight, leading = params['decoder']['weight'], data()[1][:, :Q]
    best = leading * (SPECTRUM[:Q] - SPECTRUM[Q:].mean()) @ leading.T
    return Row("pPCA: WW' at the end is U(l - s)U', distance", 0,
               float(np.linalg.norm(weight @ weight.T - best)), 'Tipping & Bishop 1999')


def collapse():
    # With s above l_2, of two latents only the first carries anything.
    noise = 5.
    params, *_ = _minimise(noise, (*ENCODER, 'weight'))
    lengths = np.linalg.svd(params['decoder']['weight'], compute_uv=False)
    return Row('pPCA with s fixed: collapsed latents #{i<=q: l_i<=s}',
               float((SPECTRUM[:Q] <= noise).sum()), float((lengths < 1e-6).sum()),
               'Lucas et al. 2019')


ROWS = (subspace_iteration, subspace_rate, autoencoder_optimum, exact_encoder_is_tight,
        exact_decoder_is_em, monotone, optimum_likelihood, optimum_noise,
        optimum_weight, collapse)
