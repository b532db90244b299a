"""What images of a GAN are judged by, and how they came about, for its folder."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.data import Dataset
from experiments.harness.errors import SettingError
from experiments.harness.report import figures
from experiments.harness.runs import snapshots
from experiments.judge import Images, Judge, trained_judge
from experiments.scores import write_scores

# Enough of a classifier: as many examples, a set of any size gone through as often.
_EXAMPLES, _MOST_EPOCHS = 300_000, 25
_LEAST = 0.9

# Of the mixture: what it is fitted to, and its size. Components share no covariance.
_FITTED, _AXES, _COMPONENTS = 10_000, 50, 20

SHOWN = 16  # latents whose images are kept at each evaluation
_ROWS = 10  # evaluations on the sheet


def image_judge(data: Dataset, samples: int, epochs: int | None, least: float | None
                ) -> Judge:
    """Train the classifier that judges, or take it from the cache.

    Args:
      data: images with classes.
      samples: that are to be judged.
      epochs: of its training; as many as its size needs unless given.
      least: what it must know of the test split, 0.9 unless given.

    Raises:
      SettingError: there are no classes, too few samples, or it did not learn.
    """
    if data.train.labels is None or data.test.labels is None:
        raise SettingError(f'--samples={samples} are judged by a classifier, and '
                           f'--dataset={data.name} has no classes; leave the flag out.')
    train, test = (Images(jnp.asarray(split.examples), jnp.asarray(split.labels))
                   for split in (data.train, data.test))
    judge = trained_judge(
        data, train, test, made_of='images', least=_LEAST if least is None else least,
        epochs=epochs or max(1, min(_MOST_EPOCHS, _EXAMPLES // len(train.images))))
    features = judge.test.features.shape[1]
    if not features < samples <= len(train.images):
        raise SettingError(
            f'--samples={samples}: a Fréchet distance of {features} features wants '
            f'more than {features}, and density and coverage as many real images, of '
            f'which there are {len(train.images)}; give a number between.')
    return judge


def write_judgement(folder: Path, judge: Judge, data: Dataset,
                    samples: Mapping[str, jax.Array], labels) -> None:
    """Write scores.txt: of the samples, of real images, and of a mixture's.

    Args:
      folder: of the run.
      judge: the classifier.
      data: what it was trained on.
      samples: name -> float32[M, H, W, C].
      labels: int32[M], what was asked for, or None.
    """
    count = max(map(len, samples.values()))
    # As many as there are samples: the distances depend on the number.
    real = np.random.RandomState(0).permutation(len(data.test.examples))[:count]
    rows = {'real, test split': judge.scores(jnp.asarray(data.test.examples[real])),
            'Gaussian mixture': judge.scores(mixture_samples(
                data.train.examples, count)),
            **{name: judge.scores(images, labels) for name, images in samples.items()}}
    write_scores(folder, rows, judge.facts())


def mixture_samples(examples: np.ndarray, count: int, seed: int = 0) -> jax.Array:
    """Draw of a Gaussian mixture that scikit-learn fits to images.

    It is of the first principal axes, 50 of them, and of 20 components with full
    covariances; what it draws is put back among the pixels and clipped to [0, 1].

    Args:
      examples: float32[N, H, W, C] in [0, 1]; at most 10,000 are looked at.
      count: M.
      seed: of the choice, of the fit and of the draw.

    Returns:
      float32[M, H, W, C].
    """
    from sklearn.decomposition import PCA  # half a second, which only some runs need
    from sklearn.mixture import GaussianMixture
    chosen = np.random.RandomState(seed).permutation(len(examples))[:_FITTED]
    points = np.asarray(examples)[chosen].reshape(len(chosen), -1).astype(float)
    axes = PCA(min(_AXES, *points.shape), random_state=seed)
    mixture = GaussianMixture(min(_COMPONENTS, len(points)), reg_covar=1e-3,
                              random_state=seed).fit(axes.fit_transform(points))
    drawn = axes.inverse_transform(mixture.sample(count)[0])
    # It draws component by component; whoever takes the first ones wants all kinds.
    drawn = np.random.RandomState(seed).permutation(drawn)
    return jnp.asarray(np.clip(drawn, 0, 1).reshape(count, *examples.shape[1:]),
                       jnp.float32)


def draw_training(folder: Path) -> None:
    """Draw the samples of one noise over the training: training.png, training.gif."""
    kept = list(snapshots.read(folder).values())
    if not kept:
        return
    rows = np.linspace(0, len(kept) - 1, min(_ROWS, len(kept))).round().astype(int)
    figures.grid(folder / 'training.png', np.concatenate(
        [kept[row] for row in rows]) / 255, columns=SHOWN)
    figures.animation(folder / 'training.gif', [images / 255 for images in kept],
                      columns=4)
