"""One page that shows a comparison: no script, no network, every figure inside."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from cdgm.metrics import mean_and_error
from experiments import figures
from experiments.compare import compare, mean_error, read_curve
from experiments.run_folder import read_rows

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2430; background: #fff;
       max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.25rem; margin-top: 2.6rem; border-top: 1px solid #d9dee6;
     padding-top: 1.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p.lead { color: #4a5568; margin-top: 0; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #1d2430; font-weight: 600; vertical-align: bottom; }
tbody td { border-bottom: 1px solid #e6e9ef; }
td.best { font-weight: 700; }
img { max-width: 100%; height: auto; display: block; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.row figure { flex: 1 1 16rem; max-width: 22rem; }
figure { margin: .5rem 0; }
figcaption, footer { color: #4a5568; font-size: .9rem; }
footer { border-top: 1px solid #d9dee6; margin-top: 2.5rem; padding-top: 1rem; }
code { background: #f2f4f7; padding: .1rem .3rem; border-radius: 3px; font-size: .85em;
       overflow-wrap: anywhere; }
"""


class Section(NamedTuple):
    """A comparison of runs.

    Attributes:
      title: above it.
      metric: name of the test metric.
      unit: what the metric is, for people.
      about: what is compared, a few sentences.
      runs: name -> (experiment, *arguments).
    """

    title: str
    metric: str
    unit: str
    about: str
    runs: dict[str, tuple[str, ...]]


def write_report(path: Path, sections: Sequence[Section],
                 folders: Sequence[dict[str, Path]]) -> Path:
    """Write the page.

    Args:
      path: of the page.
      sections: what was compared.
      folders: of each section's runs, name -> folder.

    Returns:
      The path.
    """
    parts = [_section(section, where) for section, where in zip(sections, folders)]
    first = next(iter(folders[0].values()))
    env = json.loads((first / 'env.json').read_text())
    versions = ', '.join(f'{name} {number}' for name, number in env['versions'].items())
    path.write_text(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>cdgm: coordinate descent on digits</title><style>{_STYLE}</style>'
        '</head><body>\n<h1>Coordinate descent against joint training</h1>\n'
        '<p class="lead">One block of parameters moves at a time; the rest keep their '
        'bits. A sweep moves every block once, so it costs more than one joint step: '
        'read the methods at equal sweeps <em>and</em> at equal FLOPs.</p>\n'
        + '\n'.join(parts)
        + f'\n<footer>Python {env["python"]}, {html.escape(versions)}; '
        f'{html.escape(env["device"])}, {env["cores"]} cores; '
        f'commit {env["commit"] or "unknown"}'
        f'{" with uncommitted changes" if env["uncommitted"] else ""}.</footer>\n'
        '</body></html>\n', encoding='utf-8')
    return path


def _section(section: Section, folders: dict[str, Path]) -> str:
    rows = {name: read_rows(folder) for name, folder in folders.items()}
    seeds = len(rows[next(iter(rows))][0]['test'][section.metric])
    return '\n'.join([
        f'<h2>{html.escape(section.title)}</h2>',
        f'<p>{html.escape(section.about)} {seeds} seeds each.</p>',
        _table(section, rows),
        _image(_curves(section, rows), 'mean over the seeds, with a band of one '
               'standard error either side'),
        _image(_losses(rows), 'training loss of each block, before its own move'),
        *(_pictures(folders, name, title) for name, title in (
            ('samples.png', 'Samples of the first seed'),
            ('reconstructions.png', 'Test images and their reconstructions'))
          if (next(iter(folders.values())) / name).exists()),
        '<h3>Again</h3>',
        *(f'<p><code>python -m experiments.{run[0]} {html.escape(_command(folder))}'
          '</code></p>'
          for run, folder in zip(section.runs.values(), folders.values()))])


def _command(folder: Path) -> str:
    command = json.loads((folder / 'env.json').read_text())['command']
    return ' '.join(part for part in command[1:] if not part.startswith('--run_dir'))


def _table(section: Section, rows) -> str:
    result = compare({name: read_curve(run, section.metric)
                      for name, run in rows.items()})
    digits = 2 if section.metric == 'neg_elbo' else 4
    columns = result.at_sweeps, result.at_gflop
    body = []
    for name, run in rows.items():
        cells = ''.join(
            f'<td{" class=best" if name in _best(column) else ""}>'
            f'{mean_error(column[name], digits)}</td>' for column in columns)
        last = run[-1]
        body.append(f'<tr><td>{html.escape(name)}</td>{cells}<td>{last["gflop"]:.1f}'
                    f'</td><td>{last["seconds"]:.1f}</td></tr>')
    return (f'<p>{html.escape(section.unit)}; mean ± standard error:</p>'
            '<table><thead><tr><th>order of updates</th>'
            f'<th>at {result.sweeps:.0f} sweeps</th>'
            f'<th>at {result.gflop:.1f} GFLOP</th><th>GFLOP in all, a seed</th>'
            '<th>seconds, all seeds</th></tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table>')


def _best(column: dict[str, np.ndarray]) -> list[str]:
    """Names of the lowest mean and of those within its standard error."""
    estimates = {name: mean_and_error(values) for name, values in column.items()}
    lowest = min(estimates.values())
    return [name for name, (mean, _) in estimates.items()
            if mean <= lowest.mean + np.nan_to_num(lowest.error)]


def _curves(section: Section, rows):
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for name, run in rows.items():
        curve = read_curve(run, section.metric)
        for axes, x in zip(panels, (curve.sweep, curve.gflop)):
            figures.band(axes, x, curve.values, name)
    # The first evaluation, before training, would flatten all that follows.
    values = np.concatenate([read_curve(run, section.metric).values[1:]
                             for run in rows.values()])
    margin = 0.08 * np.ptp(values)
    panels[0].set(xlabel='sweeps', ylabel=f'test {section.metric}',
                  ylim=(values.min() - margin, values.max() + margin))
    panels[1].set_xlabel('GFLOP a seed')
    panels[1].legend()
    return figure


def _losses(rows):
    figure, panels = plt.subplots(1, len(rows), figsize=(9, 2.8), sharey=True,
                                  squeeze=False)
    for axes, (name, run) in zip(panels[0], rows.items()):
        figures.training_losses(axes, run)
        axes.set_title(name)
    return figure


def _image(figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.tight_layout()
    # No software version in the file: the same runs make the same page.
    figure.savefig(buffer, format='png', dpi=144, metadata={'Software': None})
    plt.close(figure)
    return _figure(buffer.getvalue(), caption)


def _pictures(folders: dict[str, Path], file: str, title: str) -> str:
    pictures = ''.join(_figure((folder / file).read_bytes(), name)
                       for name, folder in folders.items())
    return f'<h3>{title}</h3><div class="row">{pictures}</div>'


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    caption = html.escape(caption)
    return (f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f'<figcaption>{caption}</figcaption></figure>')
