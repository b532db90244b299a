"""All that a variational autoencoder is judged by, in one flat dict.

Traced metrics are in the modules beside; this is for the end of a training, is not to
be traced, and refuses to return a number that is not finite.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cdgm.metrics.batches import Progress, check_positive
from cdgm.metrics.estimate import Estimate, mean_and_error
from cdgm.metrics.likelihood import importance_nll
from cdgm.metrics.posterior import (
    active_units, bits_per_dimension, elbo_parts, encode_all, latent_use,
    mutual_information, standardised_error)
from cdgm.metrics.refinement import Refinement, rate_distortion

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of the curve of active units


def evaluate_vae(
        params: Any, examples: Any, key: jax.Array, *,
        encode: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
        decode: Callable[[Any, jax.Array], Any],
        log_likelihood: Callable[[Any, Any], jax.Array],
        log_prior: Callable[[Any, jax.Array], jax.Array] | None = None,
        standardise: Callable[[Any, Any], jax.Array] | None = None,
        dimensions: int | None = None, num_samples: int = 5000, chunk_size: int = 500,
        batch_size: int = 100, refined: int = 100,
        refinement: Refinement = Refinement(), gap: bool = True,
        betas: Sequence[float] = (),
        progress: Callable[[str, int, int], None] | None = None) -> dict[str, float]:
    """Evaluate a model with one layer of latents.

    Args:
      params: whatever the functions take.
      examples: a pytree of arrays with a leading axis N, held-out data.
      key: PRNG key of all noise.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      decode: (params, latent) -> what log_likelihood takes.
      log_likelihood: (decoded, x) -> log p(x|z), float32[B], nats.
      log_prior: (params, latent) -> float32[B]; N(0, I) if left out.
      standardise: (decoded, x) -> (x - mean) / sigma, of a likelihood with a sigma;
        then `standardised_error` is among the results.
      dimensions: what bits per dimension divides by; values in an example if left out.
      num_samples: K of the importance-weighted NLL.
      chunk_size: samples of z at a time.
      batch_size: examples at a time.
      refined: examples on which the amortisation gap is taken, the first ones.
      refinement: how their posteriors are refined.
      gap: whether to take the gap; it is that to the prior N(0, I), so it is left out
        with a log_prior.
      betas: > 0, of the decoder's rate-distortion curve over the refined examples, see
        `rate_distortion`; none unless given. To the prior N(0, I), as the gap.
      progress: called with (metric, examples done, of how many).

    Returns:
      Name -> number, nats an example where nothing else is said. Means come with
      `NAME_error`, the standard error over the examples. `kl_dimension_J` is the KL of
      one dimension to N(0, 1), `active_units_above_T` the curve over thresholds,
      `mutual_information_cap` log N, which that estimate cannot exceed,
      `aggregate_kl` KL(q(z) || p(z)), the KL less the mutual information, `latent_use`
      by how much the reconstruction is worse with another example's latent;
      `rate_at_beta_B` and `distortion_at_beta_B` are a point of the curve.

    Raises:
      ValueError: a size or a beta is not positive, betas meet a log_prior, the latent
        has no dimension, or a result is not finite.
    """
    check_positive(num_samples=num_samples, chunk_size=chunk_size,
                   batch_size=batch_size, refined=refined)
    _check_betas(betas, log_prior)
    nets: dict[str, Any] = {'encode': encode, 'decode': decode,
                            'log_likelihood': log_likelihood, 'batch_size': batch_size}
    say, gap_key = _teller(progress), jax.random.fold_in(key, 0)
    report = _held_out(params, examples, key, nets, log_prior, num_samples, chunk_size,
                       dimensions or _dimensions(examples), say)
    few = jax.tree.map(lambda x: x[:refined], examples)
    owed = gap and log_prior is None
    points = list(dict.fromkeys([*betas, 1.] if owed else betas))
    if points:
        curve = rate_distortion(params, few, gap_key, jnp.array(points), **nets,
                                refinement=refinement, progress=say('refinement'))
        report |= {f'{name}_at_beta_{beta:g}': estimate.mean[points.index(beta)]
                   for name, estimate in curve._asdict().items() if name != 'gap'
                   for beta in betas}
        if owed:
            report |= _flat(amortisation_gap=jax.tree.map(
                lambda value: value[points.index(1.)], curve.gap))
    if standardise is not None:
        report |= _flat(standardised_error=standardised_error(
            params, examples, encode=encode, decode=decode, standardise=standardise,
            batch_size=batch_size))
    return _checked({name: float(value) for name, value in report.items()})


def _check_betas(betas: Sequence[float], log_prior) -> None:
    if betas and log_prior is not None:
        raise ValueError('betas are of the rate to the prior N(0, I), and there is a '
                         'log_prior; leave one of them out.')
    for beta in betas:
        if not beta > 0:
            raise ValueError(f'betas holds {beta}; a price of the rate is > 0.')


def _held_out(params, examples, key, nets, log_prior, num_samples, chunk_size,
              dimensions, say) -> dict[str, Any]:
    """All but what only some models have."""
    count, batch_size = len(jax.tree.leaves(examples)[0]), nets['batch_size']
    keys = dict(zip(('elbo', 'nll', 'information', 'use'), jax.random.split(key, 4)))
    mean, logvar = encode_all(params, examples, encode=nets['encode'],
                              batch_size=batch_size)
    if not mean.shape[-1]:
        raise ValueError('the latent has size 0; give it at least one dimension.')
    parts = elbo_parts(params, examples, keys['elbo'], **nets, log_prior=log_prior,
                       progress=say('elbo'))
    nll = mean_and_error(_finite_nll(importance_nll(
        params, examples, keys['nll'], num_samples=num_samples, chunk_size=chunk_size,
        log_weight=_log_weight(nets, log_prior), batch_size=batch_size,
        progress=say('nll'))))
    information = mutual_information(mean, logvar, keys['information'],
                                     batch_size=batch_size, progress=say('information'))
    use = latent_use(params, examples, keys['use'], **nets)
    bits = Estimate(*(bits_per_dimension(value, dimensions) for value in nll))
    return {
        'examples': count, 'nll_samples': num_samples, 'dimensions': dimensions,
        **_flat(neg_elbo=parts.neg_elbo, reconstruction=parts.reconstruction,
                kl=parts.kl, nll=nll, bits_per_dimension=bits,
                mutual_information=information, latent_use=use),
        'mutual_information_cap': math.log(count),
        'aggregate_kl': parts.kl.mean - information.mean,
        **_of_units(mean, parts.kl_per_dimension.mean)}


def _of_units(mean, kl_per_dimension) -> dict[str, Any]:
    """What there is to say of each unit, and how many are active."""
    return {
        **{f'kl_dimension_{j}': value for j, value in enumerate(kl_per_dimension)},
        'latent_size': mean.shape[-1], 'active_units': active_units(mean),
        **{f'active_units_above_{t:g}': number for t, number in zip(
            THRESHOLDS, active_units(mean, jnp.array(THRESHOLDS)))}}


def _log_weight(nets, log_prior):
    """log p(x, z) / q(z|x) of one z, for `importance_nll`."""
    def log_weight(params, x, key):
        mean, logvar = nets['encode'](params, x)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        latent = mean + jnp.exp(logvar / 2) * noise
        prior = (-jnp.sum(jnp.square(latent) + math.log(2 * math.pi), axis=-1) / 2
                 if log_prior is None else log_prior(params, latent))
        log_q = -jnp.sum(jnp.square(noise) + logvar + math.log(2 * math.pi), -1) / 2
        decoded = nets['decode'](params, latent)
        return nets['log_likelihood'](decoded, x) + prior - log_q

    return log_weight


def _flat(**estimates: Estimate) -> dict[str, Any]:
    return {name + suffix: value for name, estimate in estimates.items()
            for suffix, value in zip(('', '_error'), estimate)}


def _teller(progress) -> Callable[[str], Progress | None]:
    """metric -> what reports its progress."""
    return lambda metric: None if progress is None else (
        lambda done, total: progress(metric, done, total))


def _dimensions(examples) -> int:
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(examples))


def _finite_nll(values):
    bad = ~np.isfinite(np.asarray(values))
    if bad.any():
        raise ValueError(
            f'the log weights of {bad.sum()} of {bad.size} examples are not finite, '
            f'first of example {int(np.argmax(bad))}: the decoder or the encoder '
            'overflows there, or the example is outside the likelihood\'s support.')
    return values


def _checked(report: dict[str, float]) -> dict[str, float]:
    # The standard error of one example is NaN, and rightly so.
    bad = [name for name, value in report.items()
           if not math.isfinite(value) and not name.endswith('_error')]
    if bad:
        raise ValueError(f'{", ".join(bad)} of {report["examples"]:.0f} examples are '
                         'not finite; look at the encoder\'s log variances.')
    return report
