"""Metrics: arrays in, numbers with their standard error out.

`dataset_neg_elbo` and `importance_weighted_nll` say how probable a model finds images,
in nats per example; `mmd2` how far samples are from data. The models' functions are
arguments, so that a metric fits any model.
"""

from cdgm.metrics.estimate import Estimate, mean_and_error
from cdgm.metrics.likelihood import dataset_neg_elbo, importance_weighted_nll
from cdgm.metrics.samples import median_bandwidth, mmd2

__all__ = ['Estimate', 'dataset_neg_elbo', 'importance_weighted_nll', 'mean_and_error',
           'median_bandwidth', 'mmd2']
