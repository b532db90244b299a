"""From sound to log-mel images and back: pure functions of JAX arrays.

`log_mel` makes of a wave an image in [0, 1] and `invert_log_mel` of an image a wave, by
`LogMel`'s settings; `stft`, `istft`, `mel_filters`, `nonnegative_magnitudes` and
`griffin_lim` are what they are made of. Time and memory are linear in the number of
samples; clips are taken in chunks.
"""

from cdgm.audio.augment import augment
from cdgm.audio.griffin_lim import griffin_lim, spectral_convergence
from cdgm.audio.log_mel import LogMel, invert_log_mel, log_mel
from cdgm.audio.mel import mel_filters, nonnegative_magnitudes
from cdgm.audio.stft import istft, stft

__all__ = ['LogMel', 'augment', 'griffin_lim', 'invert_log_mel', 'istft', 'log_mel',
           'mel_filters', 'nonnegative_magnitudes', 'spectral_convergence', 'stft']
