"""What each block should descend: the ELBO, wake-sleep, or the split that collapses.

    ./launch.sh split_objective                       # digits, two minutes
    ./launch.sh split_objective --out_dir=results     # split_objective.{csv,png}

Some texts say that the encoder minimises the KL and the decoder the reconstruction.
That is no ELBO: nothing then asks the encoder to tell images apart, and its minimum is
q(z|x) = N(0, I). Here the same net is trained four times, from the same start:

    joint        both blocks at once, -ELBO
    descent      decoder, then encoder, each -ELBO
    wake-sleep   decoder: -ELBO; encoder: -log q(z|x) of dreamt pairs
    split        decoder: reconstruction; encoder: KL

Expect the split's KL and mutual information to be zero, its test -ELBO 3.5 nats worse
(27.08 against 23.57) and its samples a mean digit, while joint and descent agree.

Units    nats an image, binarised digits of 8 x 8 pixels, on the test images.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import binarize, load
from experiments.harness import cli
from experiments.harness.report.csv_file import write_csv

COLUMNS = ('neg_elbo', 'reconstruction', 'kl', 'mutual_information', 'active_units',
           'nll', 'latent_use')


def objectives(model: models.VAE) -> dict[str, dict[str, Callable[..., Any]]]:
    """Name -> loss of each block."""
    nets: dict[str, Any] = {'encode': model.encode, 'decode': model.decode}
    elbo = partial(losses.neg_elbo, **nets)
    wake = partial(losses.reconstruction, **nets)
    sleep = partial(
        losses.sleep, **nets, latent_size=model.latent_size,
        sample_observation=lambda logits, key: jax.random.bernoulli(
            key, jax.nn.sigmoid(logits)).astype(logits.dtype))
    kl = partial(losses.posterior_kl, encode=model.encode)
    return {'joint': {'encoder': elbo, 'decoder': elbo},
            'descent': {'encoder': elbo, 'decoder': elbo},
            'wake-sleep': {'encoder': sleep, 'decoder': wake},
            'split': {'encoder': kl, 'decoder': wake}}


def train(name: str, model: models.VAE, images: jax.Array, *, epochs: int,
          batch_size: int, learning_rate: float, seed: int) -> Any:
    """Train by the objectives of that name; returns the parameters."""
    descent = cdgm.block_descent({
        block: cdgm.Block(block, loss, optax.adam(learning_rate))
        for block, loss in objectives(model)[name].items()})
    steps = len(images) // batch_size

    def step(state, batch, key):
        if name == 'joint':
            return descent.simultaneous(state, batch, key)[0]
        return descent.cycle(state, batch, key, ('decoder', 'encoder'))[0]

    @jax.jit
    def epoch(state, images, key):
        order_key, key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(images))

        def body(state, index):
            rows = jax.lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
            draw, noise = jax.random.split(jax.random.fold_in(key, index))
            return step(state, binarize(images[rows], draw), noise), None

        return jax.lax.scan(body, state, jnp.arange(steps))[0]

    state = descent.init(model.init(jax.random.key(seed)))
    for number in range(epochs):
        state = epoch(state, images, jax.random.fold_in(jax.random.key(seed), number))
    return state.params


def evaluate(model: models.VAE, params, test: jax.Array) -> dict[str, float]:
    """Everything that is known of a model on the test images."""
    return metrics.evaluate_vae(
        params, test, jax.random.key(0), encode=model.encode, decode=model.decode,
        log_likelihood=losses.bernoulli_log_likelihood, num_samples=500,
        chunk_size=100, refined=50)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_integer('latent', 10, 'Dimensions of z.', lower_bound=1, **own)
    flags.DEFINE_integer('hidden', 128, 'Width of the nets.', lower_bound=1, **own)
    flags.DEFINE_integer('epochs', 150, 'Of training.', lower_bound=1, **own)
    flags.DEFINE_integer('batch_size', 128, 'Images in a minibatch.', lower_bound=1,
                         **own)
    flags.DEFINE_float('learning_rate', 2e-3, "Adam's, of both blocks.",
                       lower_bound=1e-9, **own)
    flags.DEFINE_integer('seed', 0, 'Of start and order.', **own)
    flags.DEFINE_string('out_dir', 'runs/split_objective', 'Folder of the table and '
                        'the figure.', **own)


def main(values: flags.FlagValues) -> None:
    """Train by every objective, print and write the table, draw."""
    data = load('digits')
    images = jnp.asarray(data.train.examples)
    test = binarize(data.test.examples, jax.random.key(0))
    model = models.vae(images.shape[1:], values.latent, (values.hidden,))
    params = {name: train(name, model, images, epochs=values.epochs,
                          batch_size=values.batch_size, seed=values.seed,
                          learning_rate=values.learning_rate)
              for name in objectives(model)}
    reports = {name: evaluate(model, params[name], test) for name in params}
    print(table(reports))
    folder = Path(values.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, reports)
    draw(folder / 'split_objective.png', model, params, test, data.test.labels)
    print(f'wrote {folder}/split_objective.csv, .json and .png')


def table(reports: dict[str, dict[str, float]]) -> str:
    """Lay out one line an objective, and what the doctor says."""
    lines = [f'{"objectives":<11}' + ''.join(f'{name[:12]:>13}' for name in COLUMNS)]
    for name, report in reports.items():
        lines.append(f'{name:<11}' + ''.join(
            f'{report[column]:13.3f}' for column in COLUMNS))
    for name, report in reports.items():
        lines += [f'{name}: {finding.words}' for finding in cdgm.diagnose(report)]
    return '\n'.join(lines)


def write(folder: Path, reports: dict[str, dict[str, float]]) -> None:
    """Write the table with its standard errors, and all numbers."""
    columns = (*COLUMNS, 'neg_elbo_error', 'nll_error')
    write_csv(folder / 'split_objective.csv', ('objectives', *columns),
              [(name, *(float(report[column]) for column in columns))
               for name, report in reports.items()])
    (folder / 'split_objective.json').write_text(json.dumps(
        {name: {key: float(f'{value:.6g}') for key, value in report.items()}
         for name, report in reports.items()}, indent=1) + '\n')


def draw(file: Path, model: models.VAE, params: dict[str, Any], test, labels) -> None:
    """Two latents of the test images, the KL of every dimension, and samples."""
    figure, panels = plt.subplots(3, len(params), figsize=(2.4 * len(params), 7))
    latent = jax.random.normal(jax.random.key(0), (25, model.latent_size))
    for column, (name, ours) in zip(panels.T, params.items()):
        mean, logvar = jax.jit(model.encode)(ours, test)
        kl = np.asarray(losses.gaussian_kl_per_dimension(mean, logvar)).mean(0)
        first, second = np.argsort(-kl)[:2]
        column[0].scatter(mean[:, first], mean[:, second], c=labels, s=4, cmap='tab10')
        column[0].set(title=name, xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
        column[1].bar(np.arange(len(kl)), np.sort(kl)[::-1])
        column[1].set(ylim=(0, 4), xlabel='dimension of z')
        pixels = np.asarray(jax.nn.sigmoid(jax.jit(model.decode)(ours, latent)))
        tiles = np.pad(pixels[..., 0], ((0, 0), (1, 1), (1, 1)))
        side = tiles.shape[1]
        sheet = tiles.reshape(5, 5, side, side).transpose(0, 2, 1, 3)
        column[2].imshow(sheet.reshape(5 * side, 5 * side), cmap='gray_r')
        column[2].axis('off')
    panels[0, 0].set_ylabel('posterior means')
    panels[1, 0].set_ylabel('KL, nats')
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    plt.close(figure)


if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
