"""The linear VAE on digits, whose optimum is known: probabilistic PCA.

    ./launch.sh ppca                         # 4 latents, two minutes
    ./launch.sh ppca --latent=10 --cycles=150
    ./launch.sh ppca --out_dir=results       # and results/ppca.csv, ppca.png

Four blocks move in turn, each exactly: the encoder's map, its covariance, the decoder's
map, its sigma; two are least squares, two are a scale in closed form. Encoder blocks
are the E step of EM, decoder blocks the M step. Beside it the same blocks by Adam, with
the diagonal posterior of an ordinary VAE.

Expect: no half step lowers the ELBO; exact blocks end within 1e-6 nats of the closed
optimum (4 latents, 100 cycles: 4e-9), gradient blocks within 1e-2 (2000 cycles: 9e-3);
and on data that the optimum of 2 latents draws, every estimate of `evaluate_vae` within
three standard errors of its closed form: NLL, KL, mutual information, amortisation gap.
(Of 2, because the information can be measured only where examples have neighbours: N
examples must be many times e^I, and 4 latents hold 5.3 nats.)

Units    nats an image, of densities of pixels in [0, 1]; 64 dimensions.
Sources  Tipping & Bishop 1999 (optimum, EM); Lucas et al. 2019 (arXiv:1911.02469).
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from absl import flags

import cdgm
from cdgm import metrics, models
from cdgm.data import load
from cdgm.losses import learned_gaussian_log_likelihood, linear_neg_elbo
from cdgm.moves import (
    exact_minimisation, log_det_minimisation, log_scale_minimisation)
from experiments.harness import cli
from experiments.harness.report import figures
from experiments.harness.report.csv_file import write_csv

ORDER = ('map', 'covariance', 'weights', 'sigma')  # the encoder's, then the decoder's


class Trajectory(NamedTuple):
    """What a descent went through.

    Attributes:
      values: float64[T], -ELBO before each half step and at the end.
      params: at the end.
    """

    values: np.ndarray
    params: Any


class Row(NamedTuple):
    """A line of the table: what is claimed, its number, and the limit it must keep."""

    statement: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the number is within its limit."""
        return self.value <= self.limit


def condense(x: np.ndarray) -> np.ndarray:
    """Give 2 D points of the mean and covariance of the data: all that the ELBO sees.

    >>> few = condense(np.random.default_rng(0).normal(size=(100, 3)))
    >>> few.shape
    (6, 3)
    """
    mean = x.mean(axis=0)
    _, lengths, axes = np.linalg.svd(x - mean, full_matrices=False)
    spokes = axes * lengths[:, None] * np.sqrt(len(lengths) / len(x))
    return np.concatenate([mean + spokes, mean - spokes])


def exact_blocks(dimensions: int) -> cdgm.Descent:
    """Every block by its exact minimum; the covariance of q(z|x) is a full one."""
    def block(leaves, move):
        return cdgm.Block(leaves, linear_neg_elbo, move)

    # Dense: the digits' covariance is too ill-conditioned for conjugate gradients.
    least_squares = exact_minimisation(dense_up_to=10_000)
    return cdgm.block_descent({
        'map': block(('encoder/weight', 'encoder/bias'), least_squares),
        'covariance': block('encoder/covariance', log_det_minimisation(1)),
        'weights': block(('decoder/weight', 'decoder/bias'), least_squares),
        'sigma': block('decoder/log_sigma', log_scale_minimisation(-2, dimensions))})


def exact_path(x: np.ndarray, latent: int, cycles: int, seed: int) -> Trajectory:
    """Cycle the exact blocks on the whole data set."""
    descent = exact_blocks(x.shape[1])
    start = models.linear_vae(x.shape[1], latent).init(jax.random.key(seed))
    start['encoder'].pop('logvar')
    start['encoder']['covariance'] = jnp.eye(latent)

    @jax.jit
    def run(state, x):
        return jax.lax.scan(lambda state, _: descent.cycle(state, x, None, ORDER),
                            state, length=cycles)

    state, infos = run(descent.init(start), jnp.asarray(x))
    last, _ = linear_neg_elbo(state.params, jnp.asarray(x), None)
    return Trajectory(np.append(np.ravel(infos.loss), last), state.params)


def gradient_path(x: np.ndarray, latent: int, cycles: int, learning_rate: float,
                  seed: int) -> Trajectory:
    """Decoder, then encoder, by Adam with a falling rate, on the whole data set."""
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, cycles))
    descent = cdgm.block_descent({
        name: cdgm.Block(name, linear_neg_elbo, tx) for name in ('decoder', 'encoder')})
    start = models.linear_vae(x.shape[1], latent).init(jax.random.key(seed))

    @jax.jit
    def run(state, x):
        return jax.lax.scan(
            lambda state, _: descent.cycle(state, x, None, ('decoder', 'encoder')),
            state, length=cycles)

    state, infos = run(descent.init(start), jnp.asarray(x))
    last, _ = linear_neg_elbo(state.params, jnp.asarray(x), None)
    return Trajectory(np.append(np.ravel(infos.loss), last), state.params)


def estimates(best: models.PpcaOptimum, count: int, seed: int) -> list[Row]:
    """Hold every estimator to its closed form, on data that the model draws.

    The encoder is moved away from the posterior, so that there is a gap to find.
    """
    exact = models.diagonalise({'decoder': {
        'weight': best.weight, 'bias': best.bias, 'log_sigma': np.log(best.noise) / 2}})
    dimensions, latent = exact['decoder']['weight'].shape
    model = models.linear_vae(dimensions, latent)
    rng = np.random.default_rng(seed)
    sigma = np.exp(exact['decoder']['log_sigma'])
    x = (rng.normal(size=(count, latent)) @ exact['decoder']['weight'].T
         + exact['decoder']['bias'] + sigma * rng.normal(size=(count, dimensions)))
    spread = 0.3  # of the encoder's log variances, too much
    poor = {**exact, 'encoder': {**exact['encoder'],
                                 'logvar': exact['encoder']['logvar'] + spread}}
    nets: dict[str, Any] = {'encode': model.encode, 'decode': model.decode,
                            'log_likelihood': learned_gaussian_log_likelihood}
    report = metrics.evaluate_vae(
        poor, x, jax.random.key(seed), **nets, num_samples=100, chunk_size=50,
        refinement=metrics.Refinement(steps=300, num_samples=32,
                                      final_samples=2000))
    informed = metrics.evaluate_vae(
        exact, x, jax.random.key(seed), **nets, num_samples=1, gap=False)
    mean, _ = model.encode(exact, x)
    gap = latent * (np.expm1(spread) - spread) / 2
    logvar = poor['encoder']['logvar']
    expected = {
        'nll': models.linear_nll(exact, x),
        'neg_elbo': models.linear_nll(exact, x) + gap,
        'kl': (np.sum(np.square(mean), 1).mean() + np.sum(np.expm1(logvar) - logvar)
               ) / 2, 'amortisation_gap': gap}
    rows = [_in_errors(name, report, value) for name, value in expected.items()]
    return [*rows, _in_errors('mutual_information', informed, best.information)]


def _in_errors(name: str, report: dict[str, float], expected: float) -> Row:
    away = abs(report[name] - float(expected))
    # A KL without noise has no error but rounding.
    return Row(f'{name}: {report[name]:.4f}, closed form {expected:.4f}; in its '
               'standard errors', away / max(report[f'{name}_error'], 1e-9), 3)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_enum('dataset', 'digits', ['digits', 'mnist', 'fashion_mnist'],
                      'Images, in grey.', **own)
    flags.DEFINE_string('data_dir', None, 'Folder that holds the data files already.',
                        **own)
    flags.DEFINE_integer('latent', 4, 'Dimensions of z.', lower_bound=1, **own)
    flags.DEFINE_integer('cycles', 100, 'Of the exact blocks.', lower_bound=1, **own)
    flags.DEFINE_integer('gradient_cycles', 2000, 'Of the blocks that Adam moves.',
                         lower_bound=1, **own)
    flags.DEFINE_float('learning_rate', 3e-2, "Adam's, at the start.", lower_bound=1e-9,
                       **own)
    flags.DEFINE_integer('drawn', 4000, 'Examples that the estimators are held to.',
                         lower_bound=2, **own)
    flags.DEFINE_integer('seed', 0, 'Of the start and of what is drawn.', **own)
    flags.DEFINE_string('out_dir', None, 'Where to write ppca.csv and ppca.png, if '
                        'anywhere.', **own)


def main(values: flags.FlagValues) -> None:
    """Descend both ways, hold the estimators to closed forms, print and write."""
    jax.config.update('jax_enable_x64', True)
    data = load(values.dataset, values.data_dir)
    x = data.train.examples.reshape(len(data.train.examples), -1).astype(float)
    best = models.ppca_optimum(x, values.latent)
    few = condense(x)
    exact = exact_path(few, values.latent, values.cycles, values.seed)
    gradient = gradient_path(few, values.latent, values.gradient_cycles,
                             values.learning_rate, values.seed)
    rows = [
        Row('exact blocks: the largest rise of -ELBO in a half step, nats',
            float(np.diff(exact.values).max()), 1e-10),
        Row(f'exact blocks: -ELBO above the optimum after {values.cycles} cycles',
            float(exact.values[-1] - best.nll), 1e-6),
        Row(f'gradient blocks: the same after {values.gradient_cycles} cycles',
            float(gradient.values[-1] - best.nll), 1e-2),
        *estimates(models.ppca_optimum(x, 2), values.drawn, values.seed)]
    print(table(best.nll, rows))
    if values.out_dir:
        folder = Path(values.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / 'ppca.csv', (*Row._fields, 'holds'),
                  [(row.statement, row.value, str(row.limit), row.holds)
                   for row in rows], digits=3)
        draw(folder / 'ppca.png', best.nll, {'exact blocks': exact, 'Adam': gradient})
        print(f'wrote {folder}/ppca.csv and {folder}/ppca.png')


def table(optimum: float, rows: list[Row]) -> str:
    """Lay out the rows, with the verdict on each."""
    lines = [f'closed optimum: -log p(x) = {optimum:.6f} nats an image']
    for row in rows:
        verdict = 'holds' if row.holds else 'FAILS'
        lines.append(f'{verdict}  {row.value:10.2g} <= {row.limit:<6g}  '
                     f'{row.statement}')
    return '\n'.join(lines)


def draw(file: Path, optimum: float, paths: dict[str, Trajectory]) -> None:
    """Draw how far -ELBO is above the optimum, half step by half step."""
    figure, axes = plt.subplots(figsize=(5, 3))
    for (name, path), colour in zip(paths.items(), figures.COLOURS):
        above = np.maximum(path.values - optimum, 1e-12)
        axes.loglog(1 + np.arange(len(above)), above, label=name, color=colour)
    axes.set(xlabel='half steps', ylabel='-ELBO above the optimum, nats')
    axes.legend()
    figure.savefig(file)
    plt.close(figure)


if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
