"""What there is to say of samples, in one flat dict of numbers.

Samples, training and test examples are compared as points: as features and logits of a
classifier of the real classes, and as they are. The classifier is the user's; one that
did not learn is refused, for its word on samples would be worth nothing.

Shapes   M samples, N training and T test examples, F features, C classes, D numbers of
         an example.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdgm.metrics.frechet import frechet_distance
from cdgm.metrics.inception import inception_score
from cdgm.metrics.manifold import nearest_distances, precision_recall_density_coverage


class Judged(NamedTuple):
    """Points and what a classifier makes of them.

    Attributes:
      points: float32[N, D].
      features: float32[N, F].
      logits: float32[N, C].
      labels: int32[N]: the class that each is of, or, of samples, was asked for; None
        where none was.
    """

    points: jax.Array
    features: jax.Array
    logits: jax.Array
    labels: jax.Array | None


def accuracy(judged: Judged) -> jax.Array:
    """Share of the points that the classifier takes for what they are."""
    return jnp.mean(jnp.argmax(judged.logits, axis=1) == judged.labels)


def check_learnt(test: Judged, least: float = 0.9) -> None:
    """Refuse a classifier that does not know the test examples.

    Args:
      test: what it makes of test examples; not to be traced.
      least: accuracy.

    Raises:
      ValueError: its accuracy is below.
    """
    seen = float(accuracy(test))
    if not seen >= least:
        raise ValueError(
            f'the classifier knows {seen:.1%} of the {len(test.points)} test examples '
            f'of {test.logits.shape[1]} classes, and {least:.0%} are asked for, so its '
            'word on samples is worth nothing; train it longer, or lower the bar.')


def evaluate_samples(samples: Judged, train: Judged, test: Judged, *,
                     neighbours: int = 5, least: float = 0.9) -> dict[str, jax.Array]:
    """Compare samples with training examples; `test` vouches for the classifier.

    Args:
      samples: M of them.
      train: the training examples, in an order drawn at random.
      test: held out; not to be traced.
      neighbours: k of precision, recall, density and coverage.
      least: accuracy that the classifier must have on `test`.

    Returns:
      As `sample_scores`, with `frechet_equal` of as many samples as there are test
      examples.

    Raises:
      ValueError: the classifier did not learn, or there are fewer samples than test
        examples, or not more than neighbours.
    """
    check_learnt(test, least)
    if len(samples.points) < len(test.points):
        raise ValueError(f'there are {len(samples.points)} samples and '
                         f'{len(test.points)} test examples, and both are compared in '
                         'equal numbers; give as many samples, or fewer test examples.')
    return sample_scores(samples, train, neighbours=neighbours, equal=len(test.points))


def sample_scores(samples: Judged, train: Judged, *, equal: int, neighbours: int = 5
                  ) -> dict[str, jax.Array]:
    """Compare samples with training examples, by a classifier that is trusted.

    Args:
      samples: M of them.
      train: the training examples, in an order drawn at random.
      equal: number of samples of `frechet_equal`, for a comparison with other points of
        that number, such as the test examples.
      neighbours: k of precision, recall, density and coverage.

    Returns:
      Name -> float32[]:
        samples              M
        accuracy             share recognised as what was asked for, if anything was
        classes              classes that one in a hundred samples or more is taken for
        inception_score      1 to C
        frechet              squared distance to `train`, biased by M and N
        frechet_equal        the same of the first `equal` samples
        precision, recall, density, coverage
                             against the first M training examples
        nearest_median       distance to the nearest training example, median
        nearest_low          and the lowest twentieth; compare both with `test`'s
    """
    share = jnp.mean(jax.nn.one_hot(jnp.argmax(samples.logits, axis=1),
                                    samples.logits.shape[1]), axis=0)
    nearest = nearest_distances(samples.points, train.points)
    manifold = precision_recall_density_coverage(
        train.features[:len(samples.points)], samples.features, neighbours)
    return {
        'samples': jnp.asarray(len(samples.points), share.dtype),
        **({} if samples.labels is None else {'accuracy': accuracy(samples)}),
        'classes': jnp.sum(share >= 0.01).astype(share.dtype),
        'inception_score': inception_score(samples.logits),
        'frechet': frechet_distance(samples.features, train.features),
        'frechet_equal': frechet_distance(samples.features[:equal], train.features),
        **manifold._asdict(),
        'nearest_median': jnp.median(nearest),
        'nearest_low': jnp.quantile(nearest, 0.05)}
