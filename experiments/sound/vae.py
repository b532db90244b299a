"""The variational autoencoder of log-mel images, and how it is judged and heard."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.mixture import GaussianMixture

import cdgm
from cdgm import losses, models
from cdgm.moves import log_scale_minimisation
from experiments.harness.task import Task
from experiments.harness.training_flags import UpdatePlan, falling
from experiments.sound.bench import Bench

BLOCKS = ('encoder', 'decoder')

_CHANNELS = {'mlp': (), 'conv': (16, 32, 64)}
_HIDDEN = {'mlp': (512,), 'conv': (256,)}
_MIXTURE = 3  # Gaussians a class
_STEPS = 5  # from one recording to another


def task(values, bench: Bench, order: UpdatePlan, cycles: int) -> Task:
    """The model, its loss, its blocks, and what is measured and shown of it.

    Args:
      values: the flags.
      bench: the data, and the judge.
      order: how the blocks take turns.
      cycles: length of training.
    """
    model = models.conditional_vae(
        bench.image_shape, bench.classes, values.latent, _HIDDEN[values.net],
        _CHANNELS[values.net])
    exact = 'sigma' in order.blocks

    def init(key):
        # As a logarithm: positive, and of one scale with the likelihood.
        log_sigma = jnp.log(jnp.asarray(values.sigma, jnp.float32))
        return {**model.init(key), **({'sigma': log_sigma} if exact else {})}

    def loss(hyper, params, batch, key, beta):
        sigma = jnp.exp(params['sigma']) if exact else hyper['sigma']
        return neg_elbo(model, sigma, beta, params, batch, key)

    def descent(hyper):
        # One loss, not three alike: blocks that share it share their work.
        shared = partial(loss, hyper, beta=hyper['beta'])

        def adam(name):
            updates = order.updates_of(name, cycles)
            return optax.adam(falling(values, hyper['rates'][name], updates),
                              b1=values.beta1)

        if order.blocks == ('joint',):
            return cdgm.block_descent(
                {'joint': cdgm.Block('', shared, adam('joint'))})
        moves = {name: adam(name) for name in BLOCKS}
        if exact:
            moves['sigma'] = log_scale_minimisation(-2, math.prod(bench.image_shape))
        return cdgm.block_descent({
            name: cdgm.Block(name, shared, move) for name, move in moves.items()})

    evaluation = partial(evaluate, model, bench, loss)
    return Task(
        init=init, descent=descent, order=order, examples=bench.examples,
        prepare=lambda batch, key: batch, evaluate=evaluation,
        draw=partial(draw, model, bench), batch_size=values.batch_size,
        fresh=values.fresh_minibatches)


def neg_elbo(model: models.ConditionalVAE, sigma, beta, params, batch, key):
    """-ELBO of a batch of (images, labels) with one sigma for all pixels, in nats."""
    images, labels = batch
    return losses.neg_elbo(
        params, images, key, beta=beta,
        encode=lambda params, x: model.encode(params, x, labels),
        decode=lambda params, z: model.decode(params, z, labels),
        log_likelihood=partial(losses.gaussian_log_likelihood, sigma=sigma))


def evaluate(model: models.ConditionalVAE, bench: Bench, loss, params, hyper
             ) -> dict[str, jax.Array]:
    """-ELBO, reconstructions and samples; with one noise, so that runs compare."""
    images, labels = bench.test
    told = labels if bench.classes else None
    bound, terms = loss(hyper, params, (images, told), jax.random.key(0), beta=1.)
    again = reconstruct(model, params, images, told)
    error = jnp.sqrt(jnp.mean(jnp.square(again - images)))
    pixels = math.prod(bench.image_shape)
    asked = bench.asked(bench.samples)
    found = {'neg_elbo': bound, 'bits_per_pixel': bound / (pixels * math.log(2)),
             'kl': terms.kl, 'reconstruction_db': error * bench.settings.decibels}
    if bench.judge is not None:
        found['reconstruction_accuracy'] = accuracy(bench, again, labels)
        if asked is not None:
            found['prior_accuracy'] = accuracy(
                bench, prior_samples(model, bench, params), asked)
    return {**found,
            **bench.quick_scores(ex_post_samples(model, bench, params), asked)}


def accuracy(bench: Bench, images, labels) -> jax.Array:
    """Share of images that the judge takes for what they are to be."""
    assert bench.judge is not None
    _, logits = bench.judge.apply(images)
    return jnp.mean(jnp.argmax(logits, axis=1) == labels)


def reconstruct(model, params, images, labels) -> jax.Array:
    """Decode the means of the codes, float32[N, M, F, 1] in [0, 1]."""
    mean, _ = model.encode(params, images, labels)
    return jnp.clip(model.decode(params, mean, labels), 0, 1)


def prior_samples(model, bench: Bench, params) -> jax.Array:
    """Decode draws of the prior, of the classes in turn."""
    latent = jax.random.normal(jax.random.key(1), (bench.samples, model.latent_size))
    return jnp.clip(model.decode(params, latent, bench.asked(bench.samples)), 0, 1)


def ex_post_samples(model, bench: Bench, params) -> jax.Array:
    """Decode draws of a Gaussian, one a class, on the training codes."""
    images, labels = bench.examples
    told = labels if bench.classes else None
    mean, logvar = model.encode(params, images, told)
    density = models.fit_codes(mean, logvar, told, bench.classes)
    asked = bench.asked(bench.samples)
    latent = models.sample_codes(density, asked, jax.random.key(2), bench.samples)
    return jnp.clip(model.decode(params, latent, asked), 0, 1)


def mixture_samples(model, bench: Bench, params) -> jax.Array:
    """Decode draws of scikit-learn's mixture of Gaussians, one a class."""
    images, labels = bench.examples
    told = labels if bench.classes else None
    mean, logvar = model.encode(params, images, told)
    codes = np.asarray(losses.sample_latent(mean, logvar, jax.random.key(3)),
                       np.float64)
    count = max(bench.classes, 1)
    asked = np.arange(bench.samples) % count
    latent = np.zeros((bench.samples, model.latent_size))
    for index in range(count):
        mine = codes[np.asarray(labels) == index] if bench.classes else codes
        mixture = GaussianMixture(min(_MIXTURE, len(mine)), reg_covar=1e-4,
                                  random_state=index).fit(mine)
        drawn, _ = mixture.sample(int(np.sum(asked == index)))
        # Components come one after another; the first samples are to be of all.
        latent[asked == index] = np.random.RandomState(index).permutation(drawn)
    return jnp.clip(model.decode(params, jnp.asarray(latent, jnp.float32),
                                 bench.asked(bench.samples)), 0, 1)


def draw(model, bench: Bench, folder: Path, params: Any) -> None:
    """Write the sounds, and the scores of all kinds of samples."""
    images, labels = bench.test
    told = labels if bench.classes else None
    asked = bench.asked(bench.samples)
    again = jax.jit(partial(reconstruct, model))(params, images, told)
    samples = {
        'prior': jax.jit(partial(prior_samples, model, bench))(params),
        'ex-post Gaussian': jax.jit(partial(ex_post_samples, model, bench))(params),
        'ex-post mixture': mixture_samples(model, bench, params)}
    _draw_sounds(model, bench, folder, params, again, samples['ex-post Gaussian'])
    error = {'reconstruction_db': bench.settings.decibels * float(
        jnp.sqrt(jnp.mean(jnp.square(again - images))))}
    bench.write_scores(folder, {
        'real, test split': (images, labels), 'reconstructions': (again, labels),
        **{name: (made, asked) for name, made in samples.items()}},
        {'reconstructions': error})
    bench.write_page(folder)


def _draw_sounds(model, bench: Bench, folder: Path, params, again, samples) -> None:
    images, labels = bench.test
    shown = min(max(bench.classes, 10), len(samples), 12)
    bench.write_sounds(folder, 'samples', bench.class_names(shown), samples[:shown])
    chosen = bench.shown_recordings
    pairs = jnp.stack([images[chosen], again[chosen]], axis=1)
    bench.write_sounds(folder, 'reconstructions', [
        f'{index} {kind}' for index in range(len(chosen))
        for kind in ('recording', 'reconstruction')],
        pairs.reshape(-1, *images.shape[1:]))
    ends = chosen[jnp.array([0, -1])]
    told = labels[ends] if bench.classes and labels is not None else None
    mean, _ = model.encode(params, images[ends], told)
    part = jnp.linspace(0, 1, _STEPS)[:, None]
    latent = (1 - part) * mean[:1] + part * mean[1:]
    # A class is one or the other: it changes in the middle.
    classes = None if told is None else jnp.where(part[:, 0] < 0.5, *told)
    between = jnp.clip(model.decode(params, latent, classes), 0, 1)
    bench.write_sounds(folder, 'interpolation',
                       [f'{index} of {_STEPS - 1}' for index in range(_STEPS)], between)
