"""Metrics: arrays in, numbers with their standard error out.

`evaluate_vae` says all of a variational autoencoder in one dict, and `evaluate_samples`
judges samples by the features and the classes of a classifier, which `train_classifier`
makes; what they are made of stands alone, too. `dataset_neg_elbo` and
`importance_weighted_nll` say how probable a model finds images, in nats per example;
`mmd2` how far samples are from data. The models' functions are arguments, so that a
metric fits any model.
"""

from cdgm.metrics.batches import map_examples
from cdgm.metrics.classifier import params_sha256, train_classifier
from cdgm.metrics.estimate import Estimate, Share, mean_and_error
from cdgm.metrics.evaluate import evaluate_vae
from cdgm.metrics.frechet import frechet_distance
from cdgm.metrics.inception import inception_score
from cdgm.metrics.likelihood import (
    dataset_neg_elbo, importance_nll, importance_weighted_nll)
from cdgm.metrics.manifold import (
    Manifold, nearest_distances, precision_recall_density_coverage)
from cdgm.metrics.modes import ModeScores, mode_scores, reverse_kl
from cdgm.metrics.posterior import (
    ElboParts, active_units, activity, bits_per_dimension, elbo_parts, encode_all,
    latent_use, mutual_information, standardised_error)
from cdgm.metrics.refinement import (
    RateDistortion, Refinement, amortisation_gap, rate_distortion)
from cdgm.metrics.sample_scores import (
    Judged, accuracy, check_learnt, evaluate_samples, sample_scores)
from cdgm.metrics.samples import median_bandwidth, mmd2
from cdgm.metrics.sliced_wasserstein import sliced_wasserstein
from cdgm.metrics.texts import novel_share, unique_share

__all__ = [
    'ElboParts', 'Estimate', 'Judged', 'Manifold', 'ModeScores', 'RateDistortion',
    'Refinement', 'Share', 'accuracy', 'active_units', 'activity', 'amortisation_gap',
    'bits_per_dimension', 'check_learnt', 'dataset_neg_elbo', 'elbo_parts',
    'encode_all', 'evaluate_samples', 'evaluate_vae', 'frechet_distance',
    'importance_nll', 'importance_weighted_nll', 'inception_score', 'latent_use',
    'map_examples', 'mean_and_error', 'median_bandwidth', 'mmd2', 'mode_scores',
    'mutual_information', 'nearest_distances', 'novel_share', 'params_sha256',
    'precision_recall_density_coverage', 'rate_distortion', 'reverse_kl',
    'sample_scores', 'sliced_wasserstein', 'standardised_error', 'train_classifier',
    'unique_share']
