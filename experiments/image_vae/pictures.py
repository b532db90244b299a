"""Pictures of an image VAE: what it draws, and where its latent leads."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy import stats

from cdgm import losses
from experiments.harness.report import figures
from experiments.image_vae.nets import Nets

ARTIFACTS = {
    'samples.png': 'Samples',
    'reconstructions.png': 'Test images and their reconstructions',
    'interpolation.png': 'From one test image to another, a row each',
    'traversal.png': 'One dimension of the latent from −3 to 3, a row each, those of '
                     'the largest KL',
    'manifold.png': 'The latent plane, by quantiles of the prior',
    'latent_map.png': 'Test images on the latent plane'}
_COLUMNS = 8
_SIDE = 12  # of the manifold


def draw(folder: Path, nets: Nets, params: Any, images: jax.Array, labels: Any) -> None:
    """Write the pictures; those of a plane only of a latent with two dimensions.

    Args:
      folder: to write to.
      nets: the model.
      params: its parameters.
      images: held out, as the losses are given them, float32[N, H, W, C].
      labels: their classes, int[N], or None.
    """
    some = images[spread(len(images), 32)]
    few = spread(len(images), 2000)
    # One program for all of them: each takes longer to compile than to run.
    look = jax.jit(_look, static_argnums=0)
    sheets, plane, mean = look(nets, params, some, images[few])
    for name, drawn in sheets.items():
        figures.grid(folder / f'{name}.png', drawn, _COLUMNS)
    if plane is not None:
        figures.grid(folder / 'manifold.png', plane, _SIDE)
        _map(folder / 'latent_map.png', np.asarray(mean),
             None if labels is None else np.asarray(labels)[few])


def spread(count: int, wanted: int) -> np.ndarray:
    """Indices all over a set, whose images may be sorted by class."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int)


def _look(nets: Nets, params: Any, some: jax.Array, many: jax.Array):
    """Sheets of images and, of a latent plane, the plane and the means on it."""
    sheets = _sheets(nets, params, some)
    if nets.model.latent_size != 2:
        return sheets, None, None
    return sheets, _manifold(nets, params), nets.model.encode(params, many)[0]


def _sheets(nets: Nets, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Name of a picture -> its images, in rows of eight."""
    mean, logvar = nets.model.encode(params, images)
    prior = jax.random.normal(jax.random.key(0), (64, nets.model.latent_size))
    pairs = jnp.stack([images, nets.show(params, mean)], axis=1)
    half = min(len(mean) // 2, _COLUMNS)
    way = jnp.linspace(0, 1, _COLUMNS)[None, :, None]
    between = (1 - way) * mean[:half, None] + way * mean[half:2 * half, None]
    # Along the dimensions that say the most, from where one image is.
    told = jnp.mean(losses.gaussian_kl_per_dimension(mean, logvar), axis=0)
    order = jnp.argsort(-told)[:_COLUMNS]
    one_hot = jax.nn.one_hot(order, nets.model.latent_size)[:, None]
    steps = jnp.linspace(-3, 3, _COLUMNS)[None, :, None]
    along = mean[:1, None] * (1 - one_hot) + steps * one_hot

    def show(latents):
        return nets.show(params, latents.reshape(-1, nets.model.latent_size))

    return {'samples': show(prior),
            'reconstructions': pairs.reshape(-1, *images.shape[1:]),
            'interpolation': show(between), 'traversal': show(along)}


def _manifold(nets: Nets, params: Any) -> jax.Array:
    """What is decoded on a lattice of equal shares of the prior, first row on top."""
    quantiles = stats.norm.ppf((jnp.arange(_SIDE) + 0.5) / _SIDE)
    rows, columns = jnp.meshgrid(-quantiles, quantiles, indexing='ij')
    return nets.show(params, jnp.stack([columns, rows], axis=-1).reshape(-1, 2))


def _map(path: Path, mean: np.ndarray, labels) -> None:
    """Draw the posterior means, a colour for each class."""
    figure, axes = plt.subplots(figsize=(4, 4))
    for label in [None] if labels is None else np.unique(labels):
        mine = slice(None) if label is None else labels == label
        axes.scatter(mean[mine, 0], mean[mine, 1], s=4, label=label,
                     color=None if label is None else plt.get_cmap('tab10')(label % 10))
    axes.set(xlabel='first dimension', ylabel='second dimension', aspect='equal')
    if labels is not None:
        axes.legend(markerscale=3, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.savefig(path)
    plt.close(figure)
