"""Small models, each a NamedTuple of pure functions of the parameters.

`vae` and `gan` build the reference models for images of any size; the parameters are a
dict with one entry for each block, so that block names select them as they stand.
`transformer` builds a language model on a stack of layers (`cdgm.layers`).
`Conv` is `flax.linen.Conv` in another form, fast inside `lax.scan` on the CPU.
"""

from cdgm.models.burda import (
    ONE_LAYER, TWO_LAYERS, HierarchicalVAE, burda_vae, one_layer)
from cdgm.models.convolution import Conv
from cdgm.models.convolutional_vae import convolutional_vae
from cdgm.models.gan import GAN, gan
<<<<<<< HEAD
from cdgm.models.sampling import sample_tokens
from cdgm.models.transformer import Transformer, transformer
=======
from cdgm.models.linear import (
    PpcaOptimum, diagonalise, linear_nll, linear_vae, ppca_optimum)
from cdgm.models.text_vae import TextVAE, text_vae
>>>>>>> vae
from cdgm.models.vae import VAE, vae
from cdgm.models.vamp_prior import VampPrior, vamp_prior

<<<<<<< HEAD
__all__ = ['GAN', 'Transformer', 'VAE', 'Conv', 'gan', 'sample_tokens', 'transformer',
           'vae']
=======
__all__ = [
    'Conv', 'GAN', 'HierarchicalVAE', 'ONE_LAYER', 'PpcaOptimum', 'TWO_LAYERS',
    'TextVAE', 'VAE', 'VampPrior', 'burda_vae', 'convolutional_vae', 'diagonalise',
    'gan', 'linear_nll', 'linear_vae', 'one_layer', 'ppca_optimum', 'text_vae', 'vae',
    'vamp_prior']
>>>>>>> vae
