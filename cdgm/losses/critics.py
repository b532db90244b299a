"""Losses of critics: values that are compared, not classified.

    loss           discriminator                          generator
    wasserstein    E_g l - E_x l                          -E_g l
    relativistic   E softplus(-(l(x) - l(g)))             E softplus(l(x) - l(g))

The Wasserstein critic must be kept Lipschitz, by a penalty or by clipped weights, see
`cdgm.losses.penalties`. The relativistic loss pairs the i-th real with the i-th fake.

Shapes   B batch; the relativistic loss needs as many real logits as fake ones.
Units    Wasserstein: those of the critic; relativistic: nats. Averaged over the batch.
Sources  Arjovsky et al. 2017 (arXiv:1701.07875) eq. 3; Jolicoeur-Martineau 2018
         (arXiv:1807.00734) section 4.1; Huang et al. 2024 (arXiv:2501.05441) eq. 2.
"""

import jax
import jax.numpy as jnp

from cdgm.losses.gan import GanLoss
from cdgm.losses.inputs import check_equal_shapes, widen


def _mean(logits):
    return jnp.mean(widen(logits))


def _mean_softplus_of_difference(above, below):
    check_equal_shapes(real_logits=above, fake_logits=below)
    return jnp.mean(jax.nn.softplus(widen(above) - widen(below)))


wasserstein = GanLoss(
    discriminator=lambda real_logits, fake_logits: (
        _mean(fake_logits) - _mean(real_logits)),
    generator=lambda real_logits, fake_logits: -_mean(fake_logits))

relativistic = GanLoss(
    discriminator=lambda real_logits, fake_logits: (
        _mean_softplus_of_difference(fake_logits, real_logits)),
    generator=lambda real_logits, fake_logits: (
        _mean_softplus_of_difference(real_logits, fake_logits)))
