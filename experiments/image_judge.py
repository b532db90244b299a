"""The flags of the classifier that judges images, and the training they ask for."""

from typing import Any

import jax.numpy as jnp
from absl import flags

from cdgm.data import Dataset
from experiments.harness.errors import SettingError
from experiments.judge import Images, Judge, trained_judge

# What a classifier is shown unless the flag says otherwise: 60 epochs of the digits.
_EXAMPLES = 86_000


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of the classifier's training."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_integer('classifier_epochs', None, 'Training of the classifier that '
                         f'judges the samples; {_EXAMPLES:,} examples unless given.',
                         lower_bound=1, **own)
    flags.DEFINE_float('classifier_accuracy', 0.95, 'Least accuracy on test images '
                       'that its word is taken for.', lower_bound=0., upper_bound=1.,
                       **own)


def image_judge(values: flags.FlagValues, data: Dataset) -> Judge:
    """Train the classifier, or take it from the cache.

    Raises:
      SettingError: the images have no classes, or it did not learn.
    """
    if data.train.labels is None or data.test.labels is None:
        raise SettingError(f'--dataset={data.name} has no classes, by which samples '
                           'are judged; name a set that has.')
    train, test = (Images(jnp.asarray(split.examples), jnp.asarray(split.labels))
                   for split in (data.train, data.test))
    epochs = values.classifier_epochs or max(_EXAMPLES // len(train.images), 1)
    return trained_judge(data, train, test, epochs=epochs,
                         least=values.classifier_accuracy)
