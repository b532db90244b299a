"""A table of a sweep as HTML: its numbers, curves, pictures and commands."""

import html
import math
import shlex
from collections.abc import Sequence

import numpy as np

from experiments.harness.report import figures
from experiments.harness.report import artifacts, panels, tables
from experiments.harness.report.compare import mean_error
from experiments.harness.report.tables import Line, Results, Run


def section(result: Results, runs: dict[str, Run]) -> str:
    """Show a table and what belongs to it.

    Args:
      result: the table with its numbers.
      runs: of the sweep, by the trial's id.
    """
    return '\n'.join([
        '<section>', f'<h2>{html.escape(result.table.title)}</h2>',
        paragraph(result.table.about), _table(result),
        *(_drawings(result) if any(line.runs for line in result.lines)
          else ['<p class="note">No trial has finished yet.</p>']),
        _tried(result), _commands(result, runs), '</section>'])


def _table(result: Results) -> str:
    tuned = _tuned(result)
    columns = [[line.at_cycles for line in result.lines],
               [line.at_gflop for line in result.lines]]
    digits = tables.digits(columns[0] + columns[1])
    marks = zip(*(tables.best(column, result.better) for column in columns))
    budgets = ((f'at {result.cycles:,.0f} cycles', f'at {_number(result.gflop)} GFLOP')
               if result.cycles else ('at equal cycles', 'at equal FLOPs'))
    heads = [f'<th scope="col">{head}</th>'
             for head in (*budgets, 'seeds', 'GFLOP', 'seconds')]
    if tuned:
        heads.append(f'<th scope="col" class="text">{html.escape(tuned)}</th>')
    body = ''.join(_row(line, mark, digits, tuned)
                   for line, mark in zip(result.lines, marks))
    return (f'{paragraph(_caption(result), "note")}<div class="wide"><table>'
            f'<thead><tr><td></td>{"".join(heads)}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


def _tuned(result: Results) -> str:
    """The flag that is tuned, 'chosen' if there are several, or ''."""
    variants = {variant for line in result.lines for variant in line.tried}
    names = {variant.partition('=')[0] for variant in variants}
    if not any(variants):
        return ''
    return names.pop() if len(names) == 1 and not any(
        ', ' in variant for variant in variants) else 'chosen'


def _caption(result: Results) -> str:
    label = result.table.label
    text = (f'{label[:1].upper()}{label[1:]}. Mean ± standard error over the seeds, at '
            'as many cycles and as many FLOPs a seed as every row made; in bold the '
            'best and what is within its standard error. GFLOP and seconds are a '
            'seed’s, in all.')
    if _tuned(result):
        numbers = sorted({len(line.tried) for line in result.lines})
        text += (f' Of each row the one of {" or ".join(map(str, numbers))} variants '
                 'with the lowest training loss over its last tenth.')
    return text


def _row(line: Line, marks: Sequence[bool], digits: int, tuned: str) -> str:
    cells = [f'<th scope="row">{html.escape(line.name)}</th>']
    for values, best in zip((line.at_cycles, line.at_gflop), marks):
        mark = ' class="best"' if best else ''
        cells.append(f'<td{mark}>{_estimate(values, digits)}</td>')
    seeds = len(line.at_cycles)
    missing = '' if seeds == line.planned else f' of {line.planned}'
    cells.append(f'<td>{seeds}{missing}</td>')
    cells += [f'<td>{_number(value) if line.runs else "–"}</td>'
              for value in (line.gflop, line.seconds)]
    if tuned:
        variant = line.variant.removeprefix(f'{tuned}=')
        cells.append(f'<td class="text">{html.escape(variant)}</td>'
                     if line.runs else '<td class="text">–</td>')
    return f'<tr>{"".join(cells)}</tr>'


def _estimate(values: np.ndarray, digits: int) -> str:
    if not len(values):
        return '–'
    if not math.isfinite(np.mean(values)):
        return 'not finite'
    return mean_error(values, digits).replace('-', '−')


def _number(value: float) -> str:
    """Write a cost with three digits or more.

    >>> _number(1234.5), _number(12.345), _number(.0123456), _number(0.)
    ('1,234', '12.3', '0.0123', '0')
    """
    if not 0 < value < math.inf:
        return f'{value:g}'
    return f'{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}'


def _drawings(result: Results) -> list[str]:
    """Curves and losses of as many rows as there are colours, pictures of all."""
    metric = f'Test {result.table.metric}'
    there = [line for line in result.lines if line.runs]
    drawn = _shown(there, result.better)
    rows = [[run.rows for run in line.runs] for line in drawn]
    note = ('Mean over the seeds, with a band of one standard error either side. The '
            'beginning may lie outside the panels.')
    if len(drawn) < len(there):
        note += (f' The best {len(drawn)} of {len(there)} rows at equal cycles are '
                 'drawn.')
    return [
        f'<h3>{html.escape(metric)} against cycles, FLOPs and seconds</h3>',
        _legend([line.name for line in drawn]),
        artifacts.gallery('panels', [
            artifacts.figure(svg, 'svg+xml', '', f'{metric} against {along}')
            for along, svg in panels.curves(rows, result.table.metric).items()]),
        paragraph(note, 'note'),
        *_training(drawn, rows),
        *(_artifacts(there, file, title)
          for file, title in result.artifacts.items())]


def _training(drawn: Sequence[Line], rows: Sequence[Sequence[panels.Rows]]
              ) -> list[str]:
    """What training says of each block, a panel a row of the table."""
    parts = []
    for name, title in figures.TRAINING_PARTS.items():
        if any(name in row for runs in rows for run in runs for row in run):
            parts += [
                f'<h3>{html.escape(title.capitalize())}, before its own move</h3>',
                artifacts.gallery('panels', [
                    artifacts.figure(svg, 'svg+xml', line.name, f'{title}: {line.name}')
                    for line, svg in zip(drawn, panels.training(rows, name))])]
    return parts


def _legend(names: Sequence[str]) -> str:
    items = (f'<li><span style="border-color: {colour}"></span>{html.escape(name)}</li>'
             for colour, name in zip(figures.COLOURS, names))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _shown(lines: Sequence[Line], better: str) -> list[Line]:
    """Pick the rows that get a colour, best first picked, in the table's order."""
    def rank(line):
        mean = float(np.mean(line.at_cycles))
        mean = -mean if better == 'higher' else mean
        return mean if math.isfinite(mean) else math.inf
    best = sorted(range(len(lines)), key=lambda index: rank(lines[index]))
    return [lines[index] for index in sorted(best[:len(figures.COLOURS)])]


def _artifacts(lines: Sequence[Line], file: str, title: str) -> str:
    """Show what the first run of each row wrote: pictures, sounds, texts."""
    found = [shown for line in lines
             for shown in artifacts.show(line.runs[0].folder, file, title, line.name)]
    head = f'<h3>{html.escape(title)}, first seed</h3>'
    return f'{head}{artifacts.gallery(artifacts.kind(file), found)}' if found else ''


def _tried(result: Results) -> str:
    """The variants that were tried, and how they trained."""
    if not _tuned(result):
        return ''
    body = ''.join(
        f'<tr><th scope="row">{html.escape(line.name)}</th>'
        f'<td class="text{" best" if line.runs and variant == line.variant else ""}">'
        f'{html.escape(variant)}</td><td>{_loss(loss)}</td>'
        f'<td>{done} of {runs}</td></tr>'
        for line in result.lines for variant, (loss, done, runs) in line.tried.items())
    note = ('Training loss over the last tenth, mean over blocks and seeds; in bold '
            'what the table shows.')
    return ('<details><summary>Variants that were tried</summary>'
            f'{paragraph(note, "note")}<div class="wide"><table><thead><tr><td></td>'
            '<th scope="col" class="text">variant</th><th scope="col">training loss'
            '</th><th scope="col">trials done</th></tr></thead>'
            f'<tbody>{body}</tbody></table></div></details>')


def _loss(loss: float) -> str:
    if math.isfinite(loss):
        return f'{loss:#.5g}'.replace('-', '−')
    return 'diverged' if math.isinf(loss) else '–'


def _commands(result: Results, runs: dict[str, Run]) -> str:
    """List the commands that repeat each trial and, once it is done, compare it."""
    parts = []
    for row in result.table.rows:
        for variant, names in row.variants.items():
            title = f'{row.name}, {variant}' if variant else row.name
            commands = '\n'.join(line for name in names for line in _repeat(runs[name]))
            parts.append(f'<h4>{html.escape(title)}</h4>'
                         f'<pre>{html.escape(commands)}</pre>')
    note = ('./launch.sh rerun repeats a trial that is done and says whether the '
            'numbers are identical.')
    return ('<details><summary>Commands that repeat each trial</summary>'
            f'{paragraph(note, "note")}' + '\n'.join(parts) + '</details>')


def _repeat(run: Run) -> list[str]:
    again = f'./launch.sh rerun {shlex.quote(str(run.folder))}'
    return [command(run), *([again] if run.state.name == 'done' else [])]


def command(run: Run) -> str:
    """Return the command that repeats a run."""
    return (f'./launch.sh {run.trial.experiment} '
            f'{shlex.join(run.trial.arguments)}')


def paragraph(text: str, kind: str = '') -> str:
    """Write a paragraph of a class, or nothing."""
    mark = f' class="{kind}"' if kind else ''
    return f'<p{mark}>{html.escape(text)}</p>' if text else ''
