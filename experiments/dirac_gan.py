"""The Dirac-GAN: every loss under every dynamic, from one starting point.

    ./launch.sh dirac_gan
    ./launch.sh dirac_gan --out_dir=results           # the committed files

The data are one point, 0; the generator makes one point, theta; the discriminator has
the logit D(x) = -psi x. Its only equilibrium is (theta, psi) = (0, 0). The setting is
that of Mescheder et al. 2018 (arXiv:1801.04406; notebook DiracGAN of GAN_stability):
start (1, 1), step 0.2, 500 steps, float64. Their discriminator is large on fakes, ours
on data, hence the minus: with it their paths are ours. A step of 1:5 is one update of
the generator and then five of the discriminator.

Writes dirac_gan.csv (loss, dynamic, theta, psi, distance, largest_distance) and
dirac_gan.png. With D(0) = 0 the relativistic loss is the non-saturating one.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from absl import flags
from PIL import Image

import cdgm
from cdgm import games, losses
from cdgm.losses import critics, penalties
from experiments.harness import cli
from experiments.harness.report import figures
from experiments.harness.report.csv_file import write_csv


class Setting(NamedTuple):
    """A loss and what keeps the discriminator smooth.

    Attributes:
      loss: what both players minimise.
      r1: weight gamma of R1, gamma / 2 * |grad D|^2 at the data.
      gp: weight lambda of WGAN-GP, lambda * (|grad D| - 1)^2.
      clip: bound of |psi|.
    """

    loss: losses.GanLoss
    r1: float = 0.
    gp: float = 0.
    clip: float = math.inf


LOSSES = {
    'minimax': Setting(losses.minimax),
    'non-saturating': Setting(losses.non_saturating),
    'Wasserstein': Setting(critics.wasserstein),
    'Wasserstein, clipped': Setting(critics.wasserstein, clip=1.),
    'WGAN-GP': Setting(critics.wasserstein, gp=0.35),
    'R1': Setting(losses.minimax, r1=0.3),
    'critical R1': Setting(losses.minimax, r1=1.),
    'relativistic': Setting(critics.relativistic),
    'relativistic + R1': Setting(critics.relativistic, r1=0.3)}


def cycle(order):
    """The dynamic of updating the blocks in turn."""
    return lambda descent: partial(descent.cycle, order=order)


G, D = ('generator',), ('discriminator',)
DYNAMICS = {
    'simultaneous': lambda descent: descent.simultaneous,
    'alternating': cycle(G + D),
    '1:5': cycle(G + 5 * D),
    '5:1': cycle(5 * G + D),
    'extragradient': games.extragradient,
    'consensus': partial(games.consensus, strength=1.)}


def game(setting: Setting, generator_rule: optax.GradientTransformation,
         discriminator_rule: optax.GradientTransformation) -> cdgm.Descent:
    """Make the game's descent; its batches are the data, float[B, 1] of zeros.

    Args:
      setting: its numbers may be traced.
      generator_rule: moves params['generator'], theta.
      discriminator_rule: moves params['discriminator'], psi.
    """
    def discriminate(params, points):
        return -params['discriminator'] * points[:, 0]

    def generate(params, latent):
        return jnp.broadcast_to(params['generator'], latent.shape)

    options: dict[str, Any] = {'generate': generate, 'discriminate': discriminate,
                               'latent_size': 1, 'loss': setting.loss}

    def discriminator_loss(params, batch, key):
        value, _ = losses.discriminator_loss(params, batch, key, **options)
        critic = partial(discriminate, params)
        r1 = penalties.squared_gradient(critic, batch)
        gp = penalties.wgan_gp(critic, batch, generate(params, batch), key)
        return value + setting.r1 / 2 * r1 + setting.gp * gp, None

    def generator_loss(params, batch, key):
        return losses.generator_loss(params, batch, key, **options)[0], None

    clipped = optax.chain(discriminator_rule, penalties.weight_clipping(setting.clip))
    return cdgm.block_descent({
        'generator': cdgm.Block('generator', generator_loss, generator_rule),
        'discriminator': cdgm.Block('discriminator', discriminator_loss, clipped)})


def advance(dynamic: str, setting: Setting, step_size):
    """One step of a dynamic as a map of points, float[2] -> float[2]: (theta, psi)."""
    descent = game(setting, optax.sgd(step_size), optax.sgd(step_size))
    step = DYNAMICS[dynamic](descent)
    data, key = jnp.zeros((1, 1)), jax.random.key(0)  # what is drawn does not matter

    def one_step(point):
        params = {'generator': point[0], 'discriminator': point[1]}
        state, _ = step(descent.init(params), data, key)
        return jnp.stack([state.params['generator'], state.params['discriminator']])

    return one_step


@partial(jax.jit, static_argnums=(0, 1, 4))
def _path(dynamic, loss, constants, step_size, steps):
    # Weights and bounds are traced, so that settings of one loss share a program.
    one_step = advance(dynamic, Setting(loss, *constants), step_size)

    def body(point, _):
        return one_step(point), point

    last, points = jax.lax.scan(body, jnp.ones(2), length=steps)
    return jnp.concatenate([points, last[None]])


def path(dynamic: str, setting: Setting, step_size: float, steps: int) -> np.ndarray:
    """Follow a dynamic from (1, 1).

    Returns:
      float[steps + 1, 2], theta and psi.
    """
    loss, *constants = setting
    return np.asarray(_path(dynamic, loss, tuple(constants), step_size, steps))


def check_step_size(step_size: float) -> None:
    """Warn of a step beyond the limits that the unregularised games have at (0, 0).

    The players' interaction there is 1/2, and 1 for Wasserstein. A step of k : 1 acts
    like an alternating one on sqrt(k) times the interaction.
    """
    for slope in (0.5, 1.):
        games.check_step_size('alternating', step_size, math.sqrt(5) * slope)
        games.check_step_size('extragradient', step_size, slope)
        games.check_step_size('consensus', step_size, slope, strength=1.)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_float('step_size', 0.2, 'Of every gradient step.', lower_bound=0.,
                       **own)
    flags.DEFINE_integer('steps', 500, 'Length of a path.', lower_bound=1, **own)
    flags.DEFINE_string('out_dir', 'runs/dirac_gan', 'Folder of the table and the '
                        'figure.', **own)


def main(values: flags.FlagValues) -> None:
    """Follow every path, print and write the table, draw."""
    jax.config.update('jax_enable_x64', True)
    check_step_size(values.step_size)
    paths = {(loss, dynamic): path(dynamic, setting, values.step_size, values.steps)
             for loss, setting in LOSSES.items() for dynamic in DYNAMICS}
    print(table(paths))
    folder = Path(values.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / 'dirac_gan.csv', paths)
    draw(folder / 'dirac_gan.png', paths)
    print(f'wrote {folder}/dirac_gan.csv and {folder}/dirac_gan.png')


def distances(points: np.ndarray) -> np.ndarray:
    """Distance from the equilibrium, float[steps + 1]."""
    return np.linalg.norm(points, axis=1)


def table(paths) -> str:
    """Lay out the distances at the end, a loss a row, in 80 columns."""
    lines = ['distance from the equilibrium at the end (at the start 1.41)',
             ' ' * 20 + ''.join(f'{_short(name):>10}' for name in DYNAMICS)]
    for loss in LOSSES:
        ends = (distances(paths[loss, dynamic])[-1] for dynamic in DYNAMICS)
        lines.append(f'{loss:<20}' + ''.join(f'{end:10.2g}' for end in ends))
    return '\n'.join(lines)


def _short(name: str) -> str:
    return {'simultaneous': 'simult.', 'alternating': 'altern.',
            'extragradient': 'extragr.'}.get(name, name)


def write(file: Path, paths) -> None:
    """Write one row a path; 12 digits, because compilers differ in the last ones."""
    rows = []
    for (loss, dynamic), points in paths.items():
        away = distances(points)
        numbers = (*points[-1], away[-1], away.max())
        rows.append([loss, dynamic, *map(float, numbers)])
    write_csv(file, ('loss', 'dynamic', 'theta', 'psi', 'distance', 'largest_distance'),
              rows, digits=12)


def draw(file: Path, paths) -> None:
    """Draw each loss's gradient field, and its path under every dynamic."""
    axis = np.linspace(-2.4, 2.4, 11)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    figure, panels = plt.subplots(3, 3, figsize=(9, 9.3), sharex=True, sharey=True)
    for panel, (loss, setting) in zip(panels.flat, LOSSES.items()):
        one_step = advance('simultaneous', setting._replace(clip=math.inf), 1.)
        field = np.asarray(jax.vmap(one_step)(jnp.asarray(grid))) - grid
        length = np.maximum(np.linalg.norm(field, axis=1, keepdims=True), 1e-9)
        panel.quiver(*grid.T, *(field / length).T, color='0.85', scale=20, width=0.005,
                     zorder=1)
        for dynamic, colour in zip(DYNAMICS, figures.COLOURS):
            panel.plot(*paths[loss, dynamic].T, color=colour, linewidth=0.9,
                       label=dynamic)
        panel.plot(0, 0, marker='+', color='black', markersize=8, zorder=3)
        panel.plot(1, 1, marker='o', color='black', markersize=3, zorder=3)
        panel.set(title=loss, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect='equal')
        panel.grid(False)
    for panel in panels[-1]:
        panel.set_xlabel('theta (generator)')
    for panel in panels[:, 0]:
        panel.set_ylabel('psi (discriminator)')
    figure.legend(*panels.flat[0].get_legend_handles_labels(), ncols=6,
                  loc='upper center')
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(file, dpi=90)
    plt.close(figure)
    # 64 colours take a third of the space, and the file is in the repository.
    Image.open(file).convert('RGB').quantize(64).save(file, optimize=True)


if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
