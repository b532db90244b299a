"""What ails a variational autoencoder, by the numbers of its evaluation.

The numbers are those of `cdgm.metrics.evaluate_vae`; and, where they are known,
`training_reconstruction` and `training_kl`, what the training loss reported.

    ailment              what shows it
    collapsed            KL or mutual information below 0.1 nats, whatever the number of
                         active units
    latent ignored       the decoder does as well with another example's latent
    encoder lags         the amortisation gap, against the KL
    sums and means       what training reported is a whole factor (dimensions, latents)
                         away from the sum that it should be
    scale                squared errors over sigma^2 far from one: the KL is irrelevant,
                         or all that counts
    too few examples     mutual information at log N, which it cannot exceed

Units    nats an example.
Sources  He et al. 2019 (arXiv:1901.05534) (lag); Cremer et al. 2018 (arXiv:1801.03558)
         (gap); Rybkin et al. 2021 (arXiv:2006.13202) (scale).
"""

from collections.abc import Callable


def collapsed(kl: float, mutual_information: float, latent_size: float,
              active_units: float, limit: float = 0.1) -> str | None:
    """Say whether the latent holds nothing."""
    if min(kl, mutual_information) >= limit:
        return None
    return (f'the posterior has collapsed: KL {kl:.3g} nats, mutual information '
            f'{mutual_information:.3g} (below {limit:g}), though {active_units:.0f} of '
            f'{latent_size:.0f} units count as active; warm the KL up, give free bits, '
            'or let the encoder take more steps')


def ignored(latent_use: float, latent_use_error: float, kl: float,
            limit: float = 0.1) -> str | None:
    """Say whether the decoder makes nothing of a latent that is paid for."""
    if kl < limit or latent_use > limit * kl + 2 * latent_use_error:
        return None
    return (f'the decoder ignores the latent: with that of another example the '
            f'reconstruction is worse by {latent_use:.3g} ± {latent_use_error:.2g} '
            f'nats, while the KL pays {kl:.3g}; weaken the decoder (word dropout, less '
            'context) or check that it reads the latent')


def lagging(amortisation_gap: float, amortisation_gap_error: float, kl: float,
            share: float = 0.2, least: float = 0.1) -> str | None:
    """Say whether the encoder owes much of the ELBO."""
    limit = max(share * kl, least)
    if amortisation_gap - 2 * amortisation_gap_error < limit:
        return None
    return (f'the encoder lags: refining each posterior gains {amortisation_gap:.3g} ± '
            f'{amortisation_gap_error:.2g} nats against a KL of {kl:.3g} (limit '
            f'{limit:.2g}); give it more steps, a higher rate or more width')


def mixed_reconstruction(reconstruction: float, training_reconstruction: float,
                         dimensions: float) -> str | None:
    """Say whether training averaged a reconstruction that is to be summed."""
    return _mixed('reconstruction', reconstruction, training_reconstruction,
                  'dimensions', dimensions)


def mixed_kl(kl: float, training_kl: float, latent_size: float) -> str | None:
    """Say whether training averaged a KL that is to be summed."""
    return _mixed('KL', kl, training_kl, 'latents', latent_size)


def _mixed(name, summed, reported, parts, count) -> str | None:
    if count < 2 or reported == 0 or not 0.7 < summed / reported / count < 1.4:
        return None
    return (f'sums and means are mixed: the {name} is {summed:.4g} nats summed, and '
            f'training reported {reported:.4g}, its mean over the {count:.0f} {parts}; '
            f'so the other term has {count:.0f} times the weight, or a '
            f'{count:.0f}th: sum over dimensions, average over the batch only')


def scale(standardised_error: float, kl: float, reconstruction: float,
          factor: float = 4.) -> str | None:
    """Say whether the likelihood's sigma fits the errors that it is of."""
    if 1 / factor <= standardised_error <= factor:
        return None
    weight = ('too small: the reconstruction outweighs the KL, which is irrelevant'
              if standardised_error > 1 else
              'too large: the KL outweighs the reconstruction, and latents collapse')
    return (f'the likelihood\'s scale is off: squared errors over sigma^2 are '
            f'{standardised_error:.3g} on average, not about 1, so sigma is {weight} '
            f'(KL {kl:.3g}, reconstruction {reconstruction:.4g} nats); learn sigma, or '
            f'multiply it by {standardised_error ** 0.5:.2g}')


def too_few(mutual_information: float, mutual_information_cap: float,
            margin: float = 0.5) -> str | None:
    """Say whether the examples are too few to measure the information."""
    if mutual_information < mutual_information_cap - margin:
        return None
    return (f'the mutual information, {mutual_information:.3g} nats, is at its cap: '
            f'with that many examples it cannot exceed {mutual_information_cap:.3g}; '
            'read it as a lower bound, or evaluate on more')


CHECKS: dict[str, Callable[..., str | None]] = {
    'collapsed': collapsed, 'latent ignored': ignored, 'encoder lags': lagging,
    'sums and means': mixed_reconstruction, 'sums and means, KL': mixed_kl,
    'scale': scale, 'too few examples': too_few}
