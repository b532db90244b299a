"""Small models, each a NamedTuple of pure functions of the parameters.

`vae` and `gan` build the reference models for images of any size; `conditional_vae` and
`conditional_gan` may be told the class and be made of convolutions; `dcgan` may be
normalised by the batch, its statistics a state of the nets. The parameters are
a dict with one entry for each block, so that block names select them as they stand.
`transformer` builds a language model on a stack of layers (`cdgm.layers`). `fit_codes`
makes a density on a trained encoder's codes, and `classifier` is what samples are
judged by. `Conv` is `flax.linen.Conv` in another form, fast inside `lax.scan` on the
CPU.
"""

from cdgm.models.burda import (
    ONE_LAYER, TWO_LAYERS, HierarchicalVAE, burda_vae, one_layer)
from cdgm.models.classifier import Classifier, classifier
from cdgm.models.conditional_gan import ConditionalGAN, conditional_gan
from cdgm.models.conditional_vae import ConditionalVAE, conditional_vae
from cdgm.models.convolution import Conv
from cdgm.models.convolutional_vae import convolutional_vae
from cdgm.models.dcgan import DCGAN, NORMALISATIONS, SMALL_DISCRIMINATORS, dcgan
from cdgm.models.ex_post import CodeDensity, fit_codes, sample_codes
from cdgm.models.gan import GAN, gan
from cdgm.models.linear import (
    PpcaOptimum, diagonalise, linear_nll, linear_vae, ppca_optimum)
from cdgm.models.pixel_vae import PixelVAE, pixel_vae
from cdgm.models.planar_gan import pac_gan, planar_gan
from cdgm.models.sampling import sample_tokens
from cdgm.models.text_vae import TextVAE, text_vae
from cdgm.models.transformer import Transformer, transformer
from cdgm.models.upsampling import Upsampling
from cdgm.models.vae import VAE, vae
from cdgm.models.vaegan import VAEGAN, vaegan
from cdgm.models.vamp_prior import VampPrior, vamp_prior

__all__ = [
    'Classifier', 'CodeDensity', 'ConditionalGAN', 'ConditionalVAE', 'Conv', 'DCGAN',
    'GAN', 'HierarchicalVAE', 'NORMALISATIONS', 'ONE_LAYER', 'PixelVAE', 'PpcaOptimum',
    'SMALL_DISCRIMINATORS', 'TWO_LAYERS', 'TextVAE', 'Transformer', 'Upsampling', 'VAE',
    'VAEGAN', 'VampPrior', 'burda_vae', 'classifier', 'conditional_gan',
    'conditional_vae', 'convolutional_vae', 'dcgan', 'diagonalise', 'fit_codes', 'gan',
    'linear_nll', 'linear_vae', 'one_layer', 'pac_gan', 'pixel_vae', 'planar_gan',
    'ppca_optimum', 'sample_codes', 'sample_tokens', 'text_vae', 'transformer', 'vae',
    'vaegan', 'vamp_prior']
