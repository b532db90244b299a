"""How many invented texts are different ones, and how many are not from the data."""

from collections.abc import Collection, Sequence

from cdgm.metrics.estimate import Share


def unique_share(samples: Sequence[str]) -> Share:
    """The share of different texts among the samples.

    Raises:
      ValueError: there is no sample.

    >>> unique_share(['ann', 'bob', 'ann', 'eve']).mean
    0.75
    """
    return Share(len(set(samples)), _length(samples))


def novel_share(samples: Sequence[str], known: Collection[str]) -> Share:
    """The share of samples that are not among the known texts (the training set).

    Raises:
      ValueError: there is no sample.

    >>> share = novel_share(['ann', 'bob', 'ann', 'eve'], {'ann'})
    >>> share.mean, share.error
    (0.5, 0.25)
    """
    known = set(known)
    return Share(sum(text not in known for text in samples), _length(samples))


def _length(samples: Sequence[str]) -> int:
    if not samples:
        raise ValueError('there is no sample; draw some.')
    return len(samples)
