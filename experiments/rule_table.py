"""Every order, schedule and rule on the reference VAE, at equal FLOPs.

    python -m experiments.rule_table --out_dir=runs/rules       # 15 minutes, two cores

The reference VAE on digits, 5 seeds; each choice at every learning rate of the grid, of
which the table shows the one with the lowest training loss at the end. The FLOPs of a
rule's measurements count as its own. Runs that are there already are not repeated. The
table is printed and written to rules.csv.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from cdgm.metrics import mean_and_error
from experiments import launch, rules, vae
from experiments.compare import compare, read_curve
from experiments.run_folder import read_rows

# name -> flags beside the learning rate.
CHOICES = {
    'joint': ('--order=joint',),
    'simultaneous': ('--order=simultaneous',),
    'decoder,encoder': ('--order=decoder,encoder',),
    'encoder,decoder': ('--order=encoder,decoder',),
    'decoder,encoder, fresh minibatches': ('--order=decoder,encoder',
                                           '--fresh_minibatches'),
    'encoder*5,decoder': ('--order=encoder*5,decoder', '--fresh_minibatches'),
    **{name: (f'--schedule={name}', '--fresh_minibatches') for name in rules.NAMES},
}


class Line(NamedTuple):
    """A line of the table: test −ELBO in nats, mean and standard error over seeds."""

    choice: str
    learning_rate: str
    neg_elbo: float
    error: float
    sweeps: int


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of the table."""
    own = {'flag_values': values}
    flags.DEFINE_string('out_dir', 'runs/rules', 'Folder of the runs and the table.',
                        **own)
    flags.DEFINE_list('learning_rates', ['1e-3', '3e-3'], 'The grid.', **own)
    flags.DEFINE_integer('seeds', 5, 'Seeds of each run.', lower_bound=1, **own)
    flags.DEFINE_integer('epochs', 150, 'Length of each run.', lower_bound=1, **own)


def main(values: flags.FlagValues) -> None:
    """Run what is missing, then print the table."""
    out = Path(values.out_dir)
    folders = {(name, rate): out / f'{_slug(name)}-{rate}'
               for name in CHOICES for rate in values.learning_rates}
    for (name, rate), folder in folders.items():
        if not (folder / 'params.npz').exists():
            vae.main(launch.parse(vae.define_flags, [
                *CHOICES[name], f'--learning_rate={rate}', f'--seeds={values.seeds}',
                f'--epochs={values.epochs}', f'--run_dir={folder}']))
    lines, gflop = table({key: read_rows(folder) for key, folder in folders.items()})
    with open(out / 'rules.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow((*Line._fields, f'at {gflop:.4g} GFLOP a seed'))
        writer.writerows(lines)
    print(f'test −ELBO, nats, at {gflop:.4g} GFLOP a seed, {values.seeds} seeds')
    for line in lines:
        print(f'{line.choice:36s} {line.learning_rate:>6s} {line.neg_elbo:9.3f} ± '
              f'{line.error:.3f} {line.sweeps:6d} sweeps')


def table(rows: dict[tuple[str, str], list]) -> tuple[list[Line], float]:
    """Make the lines, best first, and the common budget in GFLOP a seed.

    Args:
      rows: (choice, learning rate) -> metrics of a run.
    """
    best: dict[str, str] = {}
    for name, rate in rows:
        if name not in best or _trained(rows[name, rate]) < _trained(
                rows[name, best[name]]):
            best[name] = rate
    chosen = {name: read_curve(rows[name, rate], 'neg_elbo')
              for name, rate in best.items()}
    result = compare(chosen)
    lines = []
    for name, curve in chosen.items():
        mean, error = mean_and_error(result.at_gflop[name])
        sweeps = np.interp(result.gflop, curve.gflop, curve.sweep)
        lines.append(Line(name, best[name], round(float(mean), 4),
                          round(float(error), 4), round(float(sweeps))))
    return sorted(lines, key=lambda line: line.neg_elbo), result.gflop


def _trained(rows: list) -> float:
    """Mean training loss over the last tenth of a run."""
    last = [row for row in rows if 'loss' in row][-len(rows) // 10:]
    return float(np.mean([np.mean(loss) for row in last
                          for loss in row['loss'].values()]))


def _slug(name: str) -> str:
    return name.replace(', ', '-').replace(',', '-').replace('*', 'x').replace(' ', '-')


if __name__ == '__main__':
    launch.run(define_flags, main, __doc__)
