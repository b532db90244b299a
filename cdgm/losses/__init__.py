"""Losses as pure functions, in nats, summed over dimensions, averaged over the batch.

`neg_elbo`, `neg_iwae`, `discriminator_loss` and `generator_loss` become loss functions
of a block, `(params, batch, key) -> (scalar, aux)`, once `functools.partial` has bound
the nets, and `gan_game` makes those of a GAN's blocks with all that may be asked of
them; the rest are the terms they are made of, one value for each example or each batch.
"""

from cdgm.losses.critics import relativistic, wasserstein
from cdgm.losses.gan import (
    GanLoss, hinge, least_squares, minimax, non_saturating, smoothed)
from cdgm.losses.gan_game import (
    FROZEN, GAN_LOSSES, DiscriminatorTerms, GanGame, GeneratorTerms,
    check_output_range, discriminator_loss, gan_game, generator_loss, unsuited)
from cdgm.losses.language import next_token_loss, token_cross_entropy
from cdgm.losses.importance import (
    BoundTerms, LatentModel, LogWeights, log_weights, neg_iwae, sample_posterior,
    sample_prior)
from cdgm.losses.likelihoods import (
    LIKELIHOODS, Likelihood, bernoulli_log_likelihood, categorical_log_likelihood,
    check_support, gaussian_log_likelihood, learned_gaussian_log_likelihood,
    logistic_log_likelihood)
from cdgm.losses.linear import linear_neg_elbo
from cdgm.losses.penalties import (
    Penalty, clip_weights, gradient_penalty, r1, r2, squared_gradient, weight_clipping,
    wgan_gp)
from cdgm.losses.spectral_norm import spectral_norm, spectral_vectors
from cdgm.losses.vae import (
    ElboTerms, annealed, gaussian_kl, gaussian_kl_per_dimension, gaussian_log_density,
    neg_elbo, sample_latent, standard_normal_log_density)
from cdgm.losses.vaegan import VaeGanNets, feature_error, vae_gan
from cdgm.losses.wake_sleep import posterior_kl, reconstruction, sleep

__all__ = [
    'BoundTerms', 'DiscriminatorTerms', 'ElboTerms', 'FROZEN', 'GAN_LOSSES',
    'GanGame', 'GanLoss', 'GeneratorTerms', 'LIKELIHOODS', 'LatentModel',
    'Likelihood', 'LogWeights', 'Penalty', 'VaeGanNets', 'annealed',
    'bernoulli_log_likelihood', 'categorical_log_likelihood', 'check_output_range',
    'check_support', 'clip_weights', 'discriminator_loss', 'feature_error',
    'gan_game', 'gaussian_kl', 'gaussian_kl_per_dimension', 'gaussian_log_density',
    'gaussian_log_likelihood', 'generator_loss', 'gradient_penalty', 'hinge',
    'learned_gaussian_log_likelihood', 'least_squares', 'linear_neg_elbo',
    'log_weights', 'logistic_log_likelihood', 'minimax', 'neg_elbo', 'neg_iwae',
    'next_token_loss', 'non_saturating', 'posterior_kl', 'r1', 'r2',
    'reconstruction', 'relativistic', 'sample_latent', 'sample_posterior',
    'sample_prior', 'sleep', 'smoothed', 'spectral_norm', 'spectral_vectors',
    'squared_gradient', 'standard_normal_log_density', 'token_cross_entropy',
    'unsuited', 'vae_gan', 'wasserstein', 'weight_clipping', 'wgan_gp']
