"""The best Gaussian posterior of each example, found by descent, and what it shows.

    q*(z|x) = N(m, diag v),  (m, v) = argmin E_q[-log p(x|z)] + beta KL(q || N(0, I))

    amortisation gap   ELBO(q*) - ELBO(q of the encoder), beta = 1: what the encoder
                       still owes, and what encoder steps reduce
    rate-distortion    (KL(q*), E_q*[-log p(x|z)]) for each beta: the curve of this
                       decoder and this prior, whatever its encoder is

The descent is Adam's from the encoder's answer, with fresh noise in every step and a
rate that falls to zero; both ends are compared on the same fresh noise.

Shapes   N examples, Z latent, S samples of z a step.
Units    nats per example, averaged over the examples.
Sources  Cremer et al. 2018 (arXiv:1801.03558) eq. 5; Kim et al. 2018
         (arXiv:1802.02550) section 3; rate-distortion of a decoder: Alemi et al. 2018
         (arXiv:1711.00464), Huang et al. 2020 (arXiv:2008.06653) section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cdgm.metrics.batches import Progress, check_positive, map_examples
from cdgm.metrics.estimate import Estimate, mean_and_error
from cdgm.metrics.posterior import kl_to_standard


class RateDistortion(NamedTuple):
    """A curve, one point for each beta: Estimates of float32[T], nats.

    `gap` is by how much distortion + beta rate of the encoder's posterior is above that
    of the best one; at beta = 1 it is the amortisation gap.
    """

    rate: Estimate
    distortion: Estimate
    gap: Estimate


class _Terms(NamedTuple):
    distortion: jax.Array
    rate: jax.Array


class Refinement(NamedTuple):
    """How the posterior of an example is found.

    Attributes:
      steps: of Adam.
      learning_rate: at the start; it falls to zero along a cosine.
      num_samples: S, of z in a step.
      final_samples: of z with which the two ends are compared.
    """

    steps: int = 200
    learning_rate: float = 0.05
    num_samples: int = 8
    final_samples: int = 100


def amortisation_gap(params: Any, examples: Any, key: jax.Array, *,
                     encode: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
                     decode: Callable[[Any, jax.Array], Any],
                     log_likelihood: Callable[[Any, Any], jax.Array], batch_size: int,
                     refinement: Refinement = Refinement(),
                     progress: Progress | None = None) -> Estimate:
    """By how much -ELBO falls when each example's posterior is refined.

    Args:
      params: whatever the functions take.
      examples: a pytree of arrays with a leading axis N.
      key: PRNG key of the noise.
      encode: (params, x) -> (mean, logvar), float32[B, Z] each.
      decode: (params, latent) -> what log_likelihood takes.
      log_likelihood: (decoded, x) -> log p(x|z), float32[B], nats.
      batch_size: examples at a time.
      refinement: how.
      progress: called with (examples done, N).

    Returns:
      Estimate, float32[] each: the mean over the examples, >= 0 but for noise, and a
      lower bound of the gap if the descent has not converged.

    Raises:
      ValueError: a number of steps or samples is not positive.
    """
    curve = rate_distortion(
        params, examples, key, jnp.ones(1), encode=encode, decode=decode,
        log_likelihood=log_likelihood, batch_size=batch_size, refinement=refinement,
        progress=progress)
    return jax.tree.map(lambda value: value[0], curve.gap)


def rate_distortion(params: Any, examples: Any, key: jax.Array, betas: Any, *,
                    encode: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
                    decode: Callable[[Any, jax.Array], Any],
                    log_likelihood: Callable[[Any, Any], jax.Array], batch_size: int,
                    refinement: Refinement = Refinement(),
                    progress: Progress | None = None) -> RateDistortion:
    """The curve of a decoder: the rate that each distortion takes.

    Args:
      betas: float32[T] > 0, the price of the rate: small ones buy detail.
      others: as for `amortisation_gap`.

    Returns:
      RateDistortion; -d distortion / d rate = beta along it.
    """
    check_positive(**refinement._replace(learning_rate=1)._asdict())

    def example(example_and_key):
        one, key = example_and_key
        x = jax.tree.map(lambda leaf: leaf[None], one)
        first = tuple(leaf[0] for leaf in encode(params, x))

        def terms(posterior, key, samples):
            mean, logvar = posterior
            # In pairs of both signs, which cancel what is linear in the noise.
            half = jax.random.normal(key, (-(-samples // 2), *mean.shape), mean.dtype)
            noise = jnp.concatenate([half, -half])[:samples]
            latents = mean[None] + jnp.exp(logvar / 2)[None] * noise
            log_p = jax.vmap(lambda z: log_likelihood(
                decode(params, z[None]), x)[0])(latents)
            return _Terms(-jnp.mean(log_p), jnp.sum(kl_to_standard(mean, logvar)))

        def at(beta):
            step_key, end_key = jax.random.split(key)
            last = _descend(
                lambda q, k: _price(terms(q, k, refinement.num_samples), beta), first,
                step_key, refinement)
            start, end = (terms(q, end_key, refinement.final_samples)
                          for q in (first, last))
            return RateDistortion(end.rate, end.distortion,
                                  _price(start, beta) - _price(end, beta))

        return jax.vmap(at)(jnp.asarray(betas, first[0].dtype))

    count = len(jax.tree.leaves(examples)[0])
    found = map_examples(example, (examples, jax.random.split(key, count)), batch_size,
                         progress)
    return RateDistortion(*map(mean_and_error, found))


def _price(terms: _Terms, beta):
    return terms.distortion + beta * terms.rate


def _descend(loss, start, key, refinement: Refinement):
    tx = optax.adam(optax.cosine_decay_schedule(refinement.learning_rate,
                                                refinement.steps))

    def step(carry, index):
        posterior, opt_state = carry
        grads = jax.grad(loss)(posterior, jax.random.fold_in(key, index))
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(posterior, updates), opt_state), None

    (end, _), _ = jax.lax.scan(step, (start, tx.init(start)),
                               jnp.arange(refinement.steps))
    return end
