"""The lasso by coordinate moves, beside scikit-learn's `Lasso`.

    ./launch.sh lasso                         # all three problems, 10 seconds
    ./launch.sh lasso --problems=diabetes
    ./launch.sh lasso --out_dir=results       # and results/lasso.csv

    min_w  mean_n (y_n - x_n w)^2 / 2 + l1 |w|_1 + l2 |w|^2 / 2

Expect coefficients within 1e-8 of scikit-learn's (about 1e-12 on diabetes, 1e-14 on the
sparse problem), the same ones zero, and on the sparse problem thirty to a hundred times
scikit-learn's wall time. The table ends with the reason: a coordinate move knows
nothing of the loss but how to call it, so a derivative is a pass over X, and another
for its tangent; scikit-learn carries the residual and reads one column.

A round is a fixed number of steps, by random permutations in turn of all weights and of
those that are not zero, where most of the work is. It ends on the KKT residual, not on
the duality gap: the gap is a difference of losses, so in float64 it says nothing of the
last eight digits of the coefficients.

Shapes   X float64[N, D], y float64[N], w float64[D].
Data     diabetes comes with scikit-learn: N = 442, D = 10, y centred. The sparse one is
         random, N = 500, D = 1000: normal X, 30 weights, noise of deviation 0.5.
"""

import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet, Lasso

import cdgm
from cdgm.moves.coordinate import coordinate_lipschitz, coordinate_move
from cdgm.moves.proximal import elastic_net
from experiments.harness import cli
from experiments.harness.report.csv_file import write_csv


class Problem(NamedTuple):
    """Least squares with an elastic net.

    Attributes:
      inputs: float64[N, D].
      targets: float64[N].
      l1: weight of the 1-norm, in units of the loss per weight.
      l2: weight of half the squared 2-norm; 0 for the lasso.
    """

    inputs: np.ndarray
    targets: np.ndarray
    l1: float
    l2: float = 0.


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
      weights: float64[D].
      steps: updates of one weight.
      kkt: the largest violation of the optimality conditions, over l1.
      seconds: wall time without compilation.
    """

    weights: np.ndarray
    steps: int
    kkt: float
    seconds: float


def diabetes(l2: float = 0.) -> Problem:
    """scikit-learn's regression on ten baseline variables of 442 patients."""
    inputs, targets = load_diabetes(return_X_y=True)
    return Problem(inputs, targets - targets.mean(), l1=0.1, l2=l2)


def sparse(seed: int, rows: int = 500, columns: int = 1000) -> Problem:
    """More weights than observations, 30 of them not zero."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((rows, columns))
    weights = np.zeros(columns)
    weights[:30] = 2 * rng.standard_normal(30)
    return Problem(inputs, inputs @ weights + 0.5 * rng.standard_normal(rows), l1=0.1)


PROBLEMS = {'diabetes': lambda seed: diabetes(),
            'diabetes-elastic-net': lambda seed: diabetes(l2=1e-3),
            'sparse': sparse}


def loss(weights, batch, key):
    """Least squares, the smooth part."""
    inputs, targets = batch
    return jnp.mean(jnp.square(targets - inputs @ weights)) / 2, None


def solve(problem: Problem, seed: int = 0, tolerance: float = 1e-13,
          max_rounds: int = 1000) -> Solution:
    """Move one weight at a time until the optimality conditions hold.

    Args:
      problem: what to solve.
      seed: of the order of the weights.
      tolerance: largest KKT residual, over l1.
      max_rounds: when to give up.

    Raises:
      RuntimeError: the tolerance is not reached.
    """
    batch = jnp.asarray(problem.inputs), jnp.asarray(problem.targets)
    bounds = coordinate_lipschitz(batch[0])
    prox = elastic_net(problem.l1, problem.l2)
    descent = cdgm.block_descent(
        {'w': cdgm.Block('', loss, coordinate_move(bounds, prox))})
    key = jax.random.key(0)  # the loss draws nothing

    def run(state, batch, entries):
        return jax.lax.scan(
            lambda state, entry: descent.step(state, batch, key, 'w', entry=entry),
            state, entries)[0]

    def residual(weights, batch):
        slopes, _ = jax.grad(loss, has_aux=True)(weights, batch, key)
        moved = prox(weights - slopes / bounds, 1 / bounds)
        return jnp.max(jnp.abs(bounds * (weights - moved))) / problem.l1

    size = bounds.size
    steps = max(size, 200)
    state = descent.init(jnp.zeros(size))
    run = _compiled(run, state, batch, jnp.zeros(steps, jnp.int32))
    residual = _compiled(residual, state.params, batch)
    rng, start = np.random.default_rng(seed), time.perf_counter()
    for count in range(max_rounds):
        active = np.flatnonzero(state.params) if count % 2 else np.arange(size)
        if active.size:
            state = run(state, batch, _permutations(rng, active, steps))
        kkt = float(residual(state.params, batch))
        if kkt <= tolerance:
            return Solution(np.asarray(state.params), int(state.count), kkt,
                            time.perf_counter() - start)
    raise RuntimeError(f'the KKT residual is {kkt:.2g} after {max_rounds} rounds, not '
                       f'{tolerance:g}; allow more rounds, or a larger tolerance.')


def _permutations(rng, entries, steps: int) -> jax.Array:
    """Fresh permutations of the entries one after another, cut at the last step."""
    cycles = -(-steps // entries.size)
    orders = [rng.permutation(entries) for _ in range(cycles)]
    return jnp.asarray(np.concatenate(orders)[:steps], jnp.int32)


def _compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def scikit_learn(problem: Problem) -> tuple[np.ndarray, float]:
    """Its weights, and its wall time in seconds."""
    settings = {'fit_intercept': False, 'tol': 1e-14, 'max_iter': 100_000}
    weight = problem.l1 + problem.l2
    model = (ElasticNet(alpha=weight, l1_ratio=problem.l1 / weight, **settings)
             if problem.l2 else Lasso(alpha=weight, **settings))
    inputs = np.asfortranarray(problem.inputs)  # as it wants them
    start = time.perf_counter()
    model.fit(inputs, problem.targets)
    return model.coef_, time.perf_counter() - start


class Row(NamedTuple):
    """One problem, solved twice: a row of the table."""

    problem: str
    rows: int
    columns: int
    nonzeros: int
    steps: int
    kkt: float
    difference: float
    seconds: float
    sklearn_seconds: float


def compare(name: str, problem: Problem, seed: int = 0) -> Row:
    """Solve a problem by both."""
    mine = solve(problem, seed)
    theirs, seconds = scikit_learn(problem)
    rows, columns = problem.inputs.shape
    return Row(name, rows, columns, int(np.count_nonzero(mine.weights)), mine.steps,
               mine.kkt, np.max(np.abs(mine.weights - theirs)), mine.seconds, seconds)


def table(rows: list[Row]) -> str:
    """Lay out the rows, and the reason for the times, in 80 columns."""
    lines = [f'{"problem":<22}{"not 0":>6}{"steps":>8}{"KKT":>9}{"difference":>12}'
             f'{"seconds":>9}{"scikit-learn":>14}']
    for row in rows:
        lines.append(f'{row.problem:<22}{row.nonzeros:>6}{row.steps:>8}{row.kkt:>9.1e}'
                     f'{row.difference:>12.1e}{row.seconds:>9.3f}'
                     f'{row.sklearn_seconds:>14.4f}')
    slow = max(rows, key=lambda row: row.columns)
    each = 1e6 * slow.seconds / slow.steps
    return '\n'.join([
        *lines, '',
        'difference: the largest |w - scikit-learn\'s w|. Seconds without compilation.',
        f'A step on {slow.problem} takes {each:.0f} microseconds: X w and its tangent '
        f'X e_i read\n{2 * slow.rows * slow.columns} numbers, where a solver that '
        f'carries the residual reads {slow.rows}, one\ncolumn. That is the price of a '
        'loss that may be any function.'])


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    flags.DEFINE_multi_enum('problems', list(PROBLEMS), list(PROBLEMS),
                            'What to solve.', flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Of the random problem and the order of weights.',
                         flag_values=values)
    flags.DEFINE_string('out_dir', None, 'Where to write lasso.csv, if anywhere.',
                        flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Solve every problem, print the table and, with --out_dir, write it."""
    jax.config.update('jax_enable_x64', True)
    rows = [compare(name, PROBLEMS[name](values.seed), values.seed)
            for name in values.problems]
    print(table(rows))
    if values.out_dir:
        folder = Path(values.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(folder / 'lasso.csv', Row._fields, rows, digits=3)
        print(f'wrote {folder}/lasso.csv')


if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
