"""Metrics: arrays in, numbers with their standard error out.

`dataset_neg_elbo` and `importance_weighted_nll` say how probable a model finds images,
in nats per example; `mmd2` how far samples are from data. `evaluate_samples` judges
samples by the features and the classes of a classifier, which `train_classifier` makes;
what it is made of stands alone, too. The models' functions are arguments, so that a
metric fits any model.
"""

from cdgm.metrics.classifier import params_sha256, train_classifier
from cdgm.metrics.estimate import Estimate, mean_and_error
from cdgm.metrics.frechet import frechet_distance
from cdgm.metrics.inception import inception_score
from cdgm.metrics.likelihood import dataset_neg_elbo, importance_weighted_nll
from cdgm.metrics.manifold import (
    Manifold, nearest_distances, precision_recall_density_coverage)
from cdgm.metrics.sample_scores import (
    Judged, accuracy, check_learnt, evaluate_samples, sample_scores)
from cdgm.metrics.samples import median_bandwidth, mmd2

__all__ = ['Estimate', 'Judged', 'Manifold', 'accuracy', 'check_learnt',
           'dataset_neg_elbo', 'evaluate_samples', 'frechet_distance',
           'importance_weighted_nll', 'inception_score', 'mean_and_error',
           'median_bandwidth', 'mmd2', 'nearest_distances', 'params_sha256',
           'precision_recall_density_coverage', 'sample_scores', 'train_classifier']
