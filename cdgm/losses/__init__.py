"""Losses as pure functions, in nats, summed over dimensions, averaged over the batch.

`neg_elbo`, `discriminator_loss` and `generator_loss` become loss functions of a block,
`(params, batch, key) -> (scalar, aux)`, once `functools.partial` has bound the nets;
the rest are the terms they are made of, one value for each example or each batch.
"""

from cdgm.losses.critics import relativistic, wasserstein
from cdgm.losses.gan import (
    GAN_LOSSES, DiscriminatorTerms, GanLoss, GeneratorTerms, discriminator_loss,
    generator_loss, least_squares, minimax, non_saturating)
from cdgm.losses.language import next_token_loss, token_cross_entropy
from cdgm.losses.penalties import (
    clip_weights, squared_gradient, weight_clipping, wgan_gp)
from cdgm.losses.vae import (
    ElboTerms, bernoulli_log_likelihood, gaussian_kl, gaussian_log_likelihood, neg_elbo,
    sample_latent)

__all__ = [
    'DiscriminatorTerms', 'ElboTerms', 'GAN_LOSSES', 'GanLoss', 'GeneratorTerms',
    'bernoulli_log_likelihood', 'clip_weights', 'discriminator_loss', 'gaussian_kl',
    'gaussian_log_likelihood', 'generator_loss', 'least_squares', 'minimax',
    'neg_elbo', 'next_token_loss', 'non_saturating', 'relativistic', 'sample_latent',
    'squared_gradient', 'token_cross_entropy', 'wasserstein', 'weight_clipping',
    'wgan_gp']
