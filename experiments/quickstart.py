"""The main job: joint training against coordinate descent, VAE and GAN, on digits.

    ./launch.sh                             # sets up, runs this, under 3 minutes
    python -m experiments.quickstart        # the same without the set-up

Four short trainings, three seeds each, and one self-contained page that shows them,
`report.html`, whose path is the last line printed.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

from experiments import launch
from experiments.report import Section, write_report
from experiments.run_folder import new_folder

SECTIONS = (
    Section(
        'A variational autoencoder', 'neg_elbo',
        'test −ELBO, nats an image; lower is better',
        'Encoder and decoder, one hidden layer of 128 each, on handwritten digits of '
        '8 × 8 pixels. Joint training moves both at once; coordinate descent moves the '
        'decoder and then the encoder, on the same minibatch.',
        {'joint': ('vae', '--order=joint'),
         'decoder, encoder': ('vae', '--order=decoder,encoder')}),
    Section(
        'A generative adversarial network', 'mmd2',
        'squared maximum mean discrepancy between samples and test images; lower is '
        'better',
        'Discriminator and generator, with opposed losses. Simultaneous training moves '
        'both from the same point; alternating training moves the discriminator, and '
        'then the generator against the new discriminator.',
        {'simultaneous': ('gan', '--order=simultaneous'),
         'discriminator, generator': ('gan', '--order=discriminator,generator')}),
)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of the main job."""
    own = {'flag_values': values}
    flags.DEFINE_integer('seeds', 3, 'Seeds of each training.', lower_bound=1, **own)
    flags.DEFINE_integer('vae_epochs', 150, 'Epochs of each VAE.', lower_bound=1, **own)
    flags.DEFINE_integer('gan_epochs', 20, 'Epochs of each GAN.', lower_bound=1, **own)
    flags.DEFINE_string('out_dir', None, 'Folder of the runs and the report; a new one '
                        'under runs/ unless given.', **own)


def main(values: flags.FlagValues) -> None:
    """Run the trainings one after another and write the report."""
    out = Path(values.out_dir) if values.out_dir else new_folder(
        Path('runs') / 'quickstart')
    epochs = {'vae': values.vae_epochs, 'gan': values.gan_epochs}
    runs = []
    for section in SECTIONS:
        folders = {}
        for name, (experiment, *arguments) in section.runs.items():
            folders[name] = out / f'{experiment}-{name.replace(", ", "-")}'
            _run(f'experiments.{experiment}', *arguments, f'--seeds={values.seeds}',
                 f'--epochs={epochs[experiment]}', f'--run_dir={folders[name]}')
        runs.append(folders)
    print(write_report(out / 'report.html', SECTIONS, runs))


def _run(module: str, *arguments: str) -> None:
    """Run an experiment in a process of its own, as a person would."""
    status = subprocess.run([sys.executable, '-m', module, *arguments],
                            check=False).returncode
    if status:
        # The experiment has said why.
        sys.exit(status)


if __name__ == '__main__':
    launch.run(define_flags, main, __doc__)
