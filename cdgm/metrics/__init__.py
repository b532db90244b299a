"""Metrics: arrays in, numbers with their standard error out.

`evaluate_vae` says all of a variational autoencoder in one dict; its parts are here
too, to be traced. `dataset_neg_elbo` and `importance_weighted_nll` say how probable a
model finds images, in nats per example; `mmd2` how far samples are from data. The
models' functions are arguments, so that a metric fits any model.
"""

from cdgm.metrics.batches import map_examples
from cdgm.metrics.estimate import Estimate, Share, mean_and_error
from cdgm.metrics.evaluate import evaluate_vae
from cdgm.metrics.likelihood import (
    dataset_neg_elbo, importance_nll, importance_weighted_nll)
from cdgm.metrics.posterior import (
    ElboParts, active_units, activity, bits_per_dimension, elbo_parts, encode_all,
    latent_use, mutual_information, standardised_error)
from cdgm.metrics.refinement import (
    RateDistortion, Refinement, amortisation_gap, rate_distortion)
from cdgm.metrics.samples import median_bandwidth, mmd2
from cdgm.metrics.texts import novel_share, unique_share

__all__ = [
    'ElboParts', 'Estimate', 'RateDistortion', 'Refinement', 'Share', 'active_units',
    'activity', 'amortisation_gap', 'bits_per_dimension', 'dataset_neg_elbo',
    'elbo_parts', 'encode_all', 'evaluate_vae', 'importance_nll',
    'importance_weighted_nll', 'latent_use', 'map_examples', 'mean_and_error',
    'median_bandwidth', 'mmd2', 'mutual_information', 'novel_share', 'rate_distortion',
    'standardised_error', 'unique_share']
