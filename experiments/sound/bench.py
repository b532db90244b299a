"""What both models stand on: the data as images, the judge, and how samples end up."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cdgm import audio, metrics
from cdgm.data import Dataset
from experiments.harness.errors import SettingError
from experiments.harness.report import page
from experiments.judge import Images, Judge
from experiments.scores import write_scores
from experiments.sound import sounds

# What a run writes to be seen and heard -> its title.
ARTIFACTS = {
    'samples/*.wav': 'Samples',
    'reconstructions/*.wav': 'Recordings that were not trained on, and reconstructions',
    'recordings/*.wav': 'Recordings that were not trained on',
    'interpolation/*.wav': 'From one sound to another',
    'scores.txt': 'Scores; heard: after the way to a wave and back',
    'doctor.txt': 'What the doctor says of the game'}

_CHUNK = 32  # sounds at a time
_RECORDINGS = 5  # of the test split, that are shown


class Bench(NamedTuple):
    """The data, and what a model is judged with.

    Attributes:
      data: the recordings.
      settings: of the images.
      train: the training split as images.
      test: the test split.
      judge: the classifier; None where there are no classes.
      samples: how many are judged.
      classes: C that the model is told; 0 for none.
    """

    data: Dataset
    settings: audio.LogMel
    train: Images
    test: Images
    judge: Judge | None
    samples: int
    classes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(M, F, 1)."""
        return self.train.images.shape[1:]

    @property
    def examples(self):
        """What is trained on: images and, beside them, the classes."""
        labels = self.train.labels if self.classes else jnp.zeros(
            len(self.train.images), jnp.int32)
        return self.train.images, labels

    def asked(self, count: int):
        """Ask for the classes in turn, int32[count]; None where the model has none."""
        return jnp.arange(count) % self.classes if self.classes else None

    def quick_scores(self, images: jax.Array, labels) -> dict[str, jax.Array]:
        """Judge samples in the course of training; may be traced."""
        if self.judge is None:
            test = self.test.images.reshape(len(self.test.images), -1)
            samples = images.reshape(len(images), -1)[:len(test)]
            bandwidth = metrics.median_bandwidth(test, test)
            return {'mmd2': metrics.mmd2(samples, test, bandwidth)}
        return self.judge.quick_scores(images, labels)

    def hear(self, images: jax.Array, seed: int = 0) -> tuple[jax.Array, jax.Array]:
        """Make waves of images, and images of the waves: what a person gets."""
        # In chunks of one size: a program for each number would be long to compile.
        waves, heard = [], []
        for start in range(0, len(images), _CHUNK):
            part = images[start:start + _CHUNK]
            padded = jnp.pad(part, [(0, _CHUNK - len(part)), *[(0, 0)] * 3])
            wave, image = _hear(padded, jax.random.key(seed + start), self.settings)
            waves.append(wave[:len(part)])
            heard.append(image[:len(part)])
        return jnp.concatenate(waves), jnp.concatenate(heard)

    def write_scores(self, folder: Path,
                     judged: Mapping[str, tuple[jax.Array, jax.Array | None]],
                     more: Mapping[str, Mapping[str, float]]) -> None:
        """Judge samples, as they are and heard, and write scores.json.

        Args:
          folder: of the run.
          judged: name -> (images, labels that were asked for, or None).
          more: name -> further scores of it.
        """
        if self.judge is None:
            write_scores(folder, more, {'classifier': 'none, there are no classes'})
            return
        rows = {}
        for name, (images, labels) in judged.items():
            rows[name] = {**self.judge.scores(images, labels), **more.get(name, {})}
            rows[f'{name}, heard'] = self.judge.scores(self.hear(images)[1], labels)
        write_scores(folder, rows, self.judge.facts())

    def write_sounds(self, folder: Path, kind: str, names, images) -> None:
        """Write images as sounds, in a folder of that kind."""
        waves, _ = self.hear(images)
        sounds.write_sounds(folder / kind, names, waves, images, self.settings.rate)

    def write_page(self, folder: Path) -> None:
        """Write report.html, which shows all of it."""
        page.write_run_page(folder, f'Sounds of {self.data.name}', (
            f'{len(self.train.images)} recordings were trained on and '
            f'{len(self.test.images)} held out, {self.settings.rate} samples a second; '
            'all that sounds here came from its picture, by Griffin-Lim, the '
            'recordings too.'), ARTIFACTS)

    @property
    def shown_recordings(self) -> np.ndarray:
        """Numbers of test recordings, int[5], spread over what may be sorted."""
        return np.linspace(0, len(self.test.images) - 1, _RECORDINGS).astype(int)

    def class_names(self, count: int) -> list[str]:
        """Name samples by what was asked for, with a number so that they sort."""
        if not self.classes or self.data.classes is None:
            return [f'{index:02d}' for index in range(count)]
        return [f'{index:02d} {self.data.classes[index % self.classes]}'
                for index in range(count)]


def split_images(data: Dataset, settings: audio.LogMel) -> tuple[Images, Images]:
    """Make images of the training and of the test split."""
    try:
        audio.mel_filters(settings.rate, settings.size, settings.mels)
    except ValueError as error:
        raise SettingError(f'--mels: {error}') from None
    image = jax.jit(audio.log_mel, static_argnums=1)
    train, test = (Images(image(jnp.asarray(split.examples), settings),
                          None if split.labels is None else jnp.asarray(split.labels))
                   for split in (data.train, data.test))
    return train, test


@partial(jax.jit, static_argnums=2)
def _hear(images, key, settings):
    waves = audio.invert_log_mel(images, key, settings)
    return waves, audio.log_mel(waves, settings)
