"""Small flax linen models, each a NamedTuple of pure functions of the parameters.

`vae` and `gan` build the reference models for images of any size; `conditional_vae` and
`conditional_gan` may be told the class and be made of convolutions. The parameters are
a dict with one entry for each block, so that block names select them as they stand.
`fit_codes` makes a density on a trained encoder's codes, and `classifier` is what
samples are judged by. `Conv` is `flax.linen.Conv` in another form,
fast inside `lax.scan` on the CPU.
"""

from cdgm.models.classifier import Classifier, classifier
from cdgm.models.conditional_gan import ConditionalGAN, conditional_gan
from cdgm.models.conditional_vae import ConditionalVAE, conditional_vae
from cdgm.models.convolution import Conv
from cdgm.models.ex_post import CodeDensity, fit_codes, sample_codes
from cdgm.models.gan import GAN, gan
from cdgm.models.upsampling import Upsampling
from cdgm.models.vae import VAE, vae

__all__ = ['GAN', 'VAE', 'Classifier', 'CodeDensity', 'ConditionalGAN',
           'ConditionalVAE', 'Conv', 'Upsampling', 'classifier', 'conditional_gan',
           'conditional_vae', 'fit_codes', 'gan', 'sample_codes', 'vae']
