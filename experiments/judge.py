"""The classifier that samples are judged by, and what it makes of them.

It is trained from a seed on the training split and kept in the user's cache under a
name that says what it was made of, so that all runs are judged by one.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pooch
from flax import traverse_util

from cdgm import metrics, models
from cdgm.data import Dataset
from cdgm.metrics.classifier import Augment
from experiments.harness.errors import SettingError
from experiments.harness.runs import atomic

_SEED = 0
_VERSION = 1  # of what the hash of the settings does not see: the net, the training
_BATCH = 64


class Images(NamedTuple):
    """A split as the models take it: float32[N, H, W, C], and int32[N] or None."""

    images: jax.Array
    labels: jax.Array | None


class Judge(NamedTuple):
    """A classifier with what it knows of the data.

    Attributes:
      apply: images -> (features, logits).
      train: what it makes of the training split, in an order drawn at random.
      test: of the test split.
      num_classes: C.
      sha256: of its parameters.
      compare: (samples, train), `Judged` both -> scores; compiled once a number.
    """

    apply: Any
    train: metrics.Judged
    test: metrics.Judged
    num_classes: int
    sha256: str
    compare: Any

    def judged(self, images: jax.Array, labels: Any = None) -> metrics.Judged:
        """Look at images, which were asked for by their labels."""
        features, logits = self.apply(images)
        return metrics.Judged(images.reshape(len(images), -1), features, logits, labels)

    def scores(self, images: jax.Array, labels: Any = None) -> dict[str, float]:
        """Say all there is to say of samples."""
        found = self.compare(self.judged(images, labels), self.train)
        return {name: float(value) for name, value in found.items()}

    def quick_scores(self, images: jax.Array, labels: Any = None
                     ) -> dict[str, jax.Array]:
        """Judge samples in the course of training; may be traced."""
        judged = self.judged(images, labels)
        # Else XLA works with the constants for half a minute as it compiles.
        real = jax.lax.optimization_barrier(self.train.features)
        manifold = metrics.precision_recall_density_coverage(
            real[:len(images)], judged.features)
        return {**({} if labels is None else {'accuracy': metrics.accuracy(judged)}),
                'inception_score': metrics.inception_score(judged.logits),
                'frechet': metrics.frechet_distance(judged.features, real),
                'density': manifold.density, 'coverage': manifold.coverage}

    def facts(self) -> dict[str, object]:
        """What whoever reads the scores has to know of the judge."""
        return {'classifier_sha256': self.sha256,
                'classifier_accuracy': float(metrics.accuracy(self.test)),
                'training_examples': len(self.train.points)}


def trained_judge(data: Dataset, train: Images, test: Images, *, epochs: int,
                  least: float, made_of: Any = None, augment: Augment | None = None
                  ) -> Judge:
    """Train a classifier, or take it from the cache.

    Args:
      data: what the images are of.
      train: with labels.
      test: with labels.
      epochs: of the training.
      least: share of the test split that it must know.
      made_of: what the images, and the training, depend on beside the data, for JSON.
      augment: (images, key) -> images, varied, for the training.

    Raises:
      SettingError: it did not learn.
    """
    assert train.labels is not None and test.labels is not None
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    net = models.classifier(train.images.shape[1:], classes)
    text = json.dumps([_VERSION, sorted(data.sha256.items()), made_of, epochs, _SEED,
                       data.name, jax.__version__])
    path = (Path(pooch.os_cache('cdgm')) / 'classifiers'
            / f'{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz')
    params = _load(path, net)
    if params is None:
        params = _train(net, train, epochs, augment)
        _save(path, params)
    apply = jax.jit(lambda images: net.apply(params, images))
    order = np.random.RandomState(_SEED).permutation(len(train.images))

    def judged(images: jax.Array, labels: jax.Array) -> metrics.Judged:
        features, logits = apply(images)
        return metrics.Judged(images.reshape(len(images), -1), features, logits, labels)

    seen = judged(test.images, test.labels)
    try:
        metrics.check_learnt(seen, least)
    except ValueError as error:
        raise SettingError(f'{error} Raise --classifier_epochs, or lower '
                           '--classifier_accuracy.') from None
    compare = jax.jit(partial(metrics.sample_scores, equal=len(test.images)))
    return Judge(apply, judged(train.images[order], train.labels[order]), seen, classes,
                 metrics.params_sha256(params), compare)


def _train(net: models.Classifier, train: Images, epochs: int,
           augment: Augment | None):
    varied: dict[str, Any] = {} if augment is None else {'augment': augment}
    return jax.jit(lambda images, labels, key: metrics.train_classifier(
        net.init, lambda params, x: net.apply(params, x)[1], images, labels, key,
        epochs=epochs, batch_size=min(_BATCH, len(images)), **varied))(
            *train, jax.random.key(_SEED))


def _save(path: Path, params) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.atomic_write(path, 'wb') as file:
        leaves: dict[str, Any] = traverse_util.flatten_dict(params, sep='/')
        np.savez(file, **leaves)


def _load(path: Path, net: models.Classifier):
    """What was kept, if it is of the form that is wanted."""
    try:
        with np.load(path) as file:
            params = traverse_util.unflatten_dict(dict(file), sep='/')
    except (OSError, ValueError, EOFError):
        return None
    form = jax.eval_shape(net.init, jax.random.key(0))
    same = jax.tree.map(jnp.shape, form) == jax.tree.map(jnp.shape, params)
    return jax.tree.map(jnp.asarray, params) if same else None
