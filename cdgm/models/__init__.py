"""Small models, each a NamedTuple of pure functions of the parameters.

`vae` and `gan` build the reference models for images of any size; the parameters are a
dict with one entry for each block, so that block names select them as they stand.
`transformer` builds a language model on a stack of layers (`cdgm.layers`).
`Conv` is `flax.linen.Conv` in another form, fast inside `lax.scan` on the CPU.
"""

from cdgm.models.convolution import Conv
from cdgm.models.gan import GAN, gan
from cdgm.models.sampling import sample_tokens
from cdgm.models.transformer import Transformer, transformer
from cdgm.models.vae import VAE, vae

__all__ = ['GAN', 'Transformer', 'VAE', 'Conv', 'gan', 'sample_tokens', 'transformer',
           'vae']
