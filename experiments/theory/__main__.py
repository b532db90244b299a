"""Print the table of theory; see `experiments.theory`."""

import csv
import json
import sys
from pathlib import Path

import jax
from absl import flags

from experiments import theory
from experiments.harness import cli
from experiments.theory import drawings
from experiments.theory.rows import Row, holds, table, verdict


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    flags.DEFINE_string('out_dir', None, 'Folder for theory.csv, theory.json and the '
                        'figures; nothing is written unless given.', flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Measure every row, print the table, write what is asked for."""
    jax.config.update('jax_enable_x64', True)
    rows = [measure() for measure in theory.ROWS]
    failed = [row for row in rows if not holds(row)]
    print(table(rows))
    print(f'{len(rows) - len(failed)} of {len(rows)} rows hold')
    if values.out_dir:
        folder = Path(values.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, rows)
        drawings.draw(folder)
    if failed:
        sys.exit(1)


def write(folder: Path, rows: list[Row]) -> None:
    """Write the table as theory.csv and theory.json."""
    records = [{'statement': row.statement, 'prediction': float(row.prediction),
                'relation': row.relation, 'measurement': float(row.measurement),
                'difference': float(row.difference), 'verdict': verdict(row),
                'reference': row.reference} for row in rows]
    (folder / 'theory.json').write_text(json.dumps(records, indent=1) + '\n')
    with open(folder / 'theory.csv', 'w', newline='') as stream:
        writer = csv.DictWriter(stream, list(records[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(records)


if __name__ == '__main__':
    cli.run(define_flags, main, theory.__doc__)
