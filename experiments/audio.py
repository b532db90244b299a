"""Train a model of short sounds, listen to it, and have it judged.

    ./launch.sh audio                                     # a VAE of notes, 2 minutes
    ./launch.sh audio --model=gan                         # a GAN, discriminator first
    ./launch.sh audio --dataset=fsdd --order=joint        # spoken digits
    ./launch.sh audio --dataset=fsdd --order=sigma,decoder,encoder
    ./launch.sh audio --dataset=folder --data_dir=FOLDER  # recordings of your own

Sounds of about a second become log-mel images of 64 x 64 pixels, which the model is
trained on; Griffin-Lim makes sounds of images. The run's folder has report.html, with
players and pictures, its sounds as WAV files, and scores.json, by a classifier that is
trained on the same data and kept in the cache.

A VAE's blocks are encoder and decoder, and with an order that names it sigma, the
likelihood's standard deviation, which then moves to its exact minimum. A GAN's are
discriminator and generator; its samples come from an average of the generator.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from absl import flags

from cdgm import audio, losses
from cdgm.data import Dataset, audio_folder, load
from experiments.gan import define_game_flags, define_player_flags, strengths
from experiments.harness import cli, execute, training_flags
from experiments.harness.errors import SettingError
from experiments.harness.task import Experiment, Task
from experiments.judge import trained_judge
from experiments.sound import gan, vae
from experiments.sound.bench import ARTIFACTS, Bench, split_images

# What is taken where no flag says otherwise.
_DEFAULTS: dict[str, dict[str, Any]] = {
    'vae': {'order': 'decoder,encoder', 'learning_rate': '1e-3',
            'fresh_minibatches': False, 'latent': 16, 'beta1': 0.9},
    'gan': {'order': 'discriminator,generator', 'learning_rate': '2e-4',
            'fresh_minibatches': True, 'latent': 64, 'beta1': 0.5}}


class _WithDefaults:
    """The flags, and the model's own defaults for those that were not given."""

    def __init__(self, values: flags.FlagValues):
        self._values = values

    def __getattr__(self, name: str):
        value = getattr(self._values, name)
        return _DEFAULTS[self._values.model].get(name) if value is None else value

    def __getitem__(self, name: str):
        return SimpleNamespace(value=getattr(self, name))


def _given(values: flags.FlagValues) -> flags.FlagValues:
    return cast(flags.FlagValues, _WithDefaults(values))  # it reads as they do


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(values, order=None, learning_rate=None, batch_size=64,
                                epochs=60, fresh_minibatches=None)
    values.set_default('dataset', 'notes')
    values.set_default('evaluations', 5)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('model', 'vae', sorted(_DEFAULTS), 'What is trained.', **own)
    flags.DEFINE_enum('net', 'mlp', ['mlp', 'conv'], 'Of encoder, decoder and '
                      'generator; the discriminator is of convolutions.', **own)
    flags.DEFINE_bool('conditional', True, 'Tell the model the class.', **own)
    flags.DEFINE_integer('latent', None, 'Dimensions of the latent.', lower_bound=1,
                         **own)
    flags.DEFINE_float('sigma', 0.7, 'Standard deviation of the likelihood of a pixel, '
                       'in [0, 1], of a VAE; where it begins, if it is a block.',
                       lower_bound=1e-3, **own)
    flags.DEFINE_float('beta', 1., 'Weight of the KL of a VAE.', lower_bound=0., **own)
    flags.DEFINE_enum('loss', 'non_saturating', sorted(losses.GAN_LOSSES), 'Of the two '
                      'players of a GAN.', **own)
    define_player_flags(own)
    define_game_flags(own)
    values.set_default('beta1', None)
    values.set_default('average', 0.999)
    training_flags.define_cosine(values, default=True)
    flags.DEFINE_integer('mels', 64, 'Rows of an image.', lower_bound=1, **own)
    flags.DEFINE_integer('rate', 8000, 'Samples a second to which the recordings of '
                         '--dataset=folder are brought.', lower_bound=1000, **own)
    flags.DEFINE_integer('samples', 1000, 'Samples that are judged.', lower_bound=10,
                         **own)
    flags.DEFINE_integer('classifier_epochs', 25, 'Training of the classifier that '
                         'judges.', lower_bound=1, **own)
    flags.DEFINE_float('classifier_accuracy', 0.9, 'What it must know of the test '
                       'split, or nothing is trained.', lower_bound=0., upper_bound=1.,
                       **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers; without a penalty there is no program for it."""
    return ('seed', 'learning_rate', *_weights(values))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    return {'rates': _order(values).rates, **_weights(values)}


def load_sounds(values: flags.FlagValues) -> Dataset:
    """Load recordings.

    Raises:
      SettingError: the set holds no sound.
    """
    if values.dataset == 'folder':
        return audio_folder(values.data_dir, rate=values.rate)
    data = load(values.dataset, values.data_dir)
    if data.rate is None:
        raise SettingError(f'--dataset={data.name} holds no sound; name notes, fsdd, '
                           'or folder with a --data_dir.')
    return data


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The data as images, the classifier, and the model."""
    if values.conditional and data.classes is None:
        raise SettingError('the recordings have no classes, for they lie in no '
                           'folders; give --noconditional.')
    given, order = _given(values), _order(values)
    assert data.rate is not None  # `_load` let sound pass alone
    settings = audio.LogMel(rate=data.rate, mels=values.mels)
    train, test = split_images(data, settings)
    judge = None if train.labels is None else trained_judge(
        data, train, test, epochs=values.classifier_epochs,
        least=values.classifier_accuracy, made_of=settings._asdict(),
        augment=audio.augment)
    bench = Bench(data, settings, train, test, judge, values.samples,
                  len(data.classes or ()) if values.conditional else 0)
    cycles = training_flags.read_cycles(values, len(train.images))
    model = {'vae': vae, 'gan': gan}[values.model]
    return model.task(given, bench, order, cycles)


def _weights(values: flags.FlagValues) -> dict[str, float]:
    if values.model == 'gan':
        return strengths(values)
    # A sigma that is a block starts in the parameters, which are made of the flags.
    given = ('beta',) if 'sigma' in _order(values).blocks else ('beta', 'sigma')
    return {name: getattr(values, name) for name in given}


def _order(values: flags.FlagValues) -> training_flags.UpdatePlan:
    given = _given(values)
    if values.model == 'gan':
        return training_flags.read_order(given, gan.BLOCKS, whole=('simultaneous',))
    return training_flags.read_order(given, vae.BLOCKS, exact=('sigma',))


EXPERIMENT = Experiment(
    'audio', {
        'neg_elbo': 'lower', 'bits_per_pixel': 'lower', 'kl': 'higher',
        'reconstruction_db': 'lower', 'reconstruction_accuracy': 'higher',
        'prior_accuracy': 'higher', 'accuracy': 'higher', 'inception_score': 'higher',
        'frechet': 'lower', 'density': 'higher', 'coverage': 'higher', 'mmd2': 'lower'},
    define_flags, traced, hyper, task,
    ARTIFACTS, load_sounds)
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
