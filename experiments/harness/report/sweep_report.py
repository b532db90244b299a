"""One page that shows a sweep: no script, no network, every picture inside.

    OUT/report.html   tables, curves, pictures, failures, and how to repeat each run
    OUT/tables.csv    the numbers of the tables, unrounded

Both are made of the files of the runs alone, finished or not: the same files make the
same bytes.
"""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.harness.report import page, tables
from experiments.harness.report.section import command, paragraph, section
from experiments.harness.report.tables import Results, Run
from experiments.harness.runs import atomic, status_log
from experiments.harness.sweep import sweep_status
from experiments.harness.sweep.spec import Sweep


def write(sweep: Sweep, folder: Path) -> Path:
    """Write the report of a sweep, of what there is of it so far.

    Args:
      sweep: what is run.
      folder: of the sweep, as the commands within the page are to name it.

    Returns:
      The path of the page.
    """
    runs = tables.read_runs(sweep, folder)
    results = [tables.results(table, runs) for table in sweep.tables]
    page = folder / 'report.html'
    for path, text in ((folder / 'tables.csv', tables.csv_text(results)),
                       (page, _page(sweep, runs, results))):
        with atomic.atomic_write(path) as file:
            file.write(text)
    return page


def _page(sweep: Sweep, runs: dict[str, Run], results: Sequence[Results]) -> str:
    return page.html_page(sweep.title, [
        paragraph(sweep.about, 'lead'), _progress(runs.values())],
        [*(section(result, runs) for result in results), _failures(runs.values()),
         _footer(runs.values())])


def _progress(runs: Iterable[Run]) -> str:
    counts = Counter(run.state.name for run in runs)
    states = {name: f'{counts[name]} {name}' for name in sweep_status.NAMES}
    if counts['failed']:
        states['failed'] = f'<a href="#failures">{states["failed"]}</a>'
    return f'<p>{_count(counts.total(), "trial")}: {", ".join(states.values())}.</p>'


def _count(number: int, thing: str) -> str:
    return f'{number} {thing}' + ('' if number == 1 else 's')


def _failures(runs: Iterable[Run]) -> str:
    failed = [run for run in runs if run.state.name == 'failed']
    if not failed:
        return ''
    body = ''.join(
        f'<tr><td class="text wrong">{html.escape(run.state.kind)}</td>'
        f'<td class="text some">{html.escape(run.state.reason)}{_trace(run)}</td>'
        f'<td class="text some"><code>{html.escape(command(run))}</code></td>'
        f'<td>{run.state.attempts}</td></tr>' for run in failed)
    return ('<section id="failures"><h2>Failures</h2><div class="wide"><table><thead>'
            '<tr><th scope="col">kind</th><th scope="col" class="text">reason</th>'
            '<th scope="col" class="text">trial</th><th scope="col">attempts</th></tr>'
            f'</thead><tbody>{body}</tbody></table></div></section>')


def _trace(run: Run) -> str:
    path = run.folder / 'crash.txt'
    where = f'<br>Its trace: <code>{html.escape(str(path))}</code>'
    return where if path.exists() else ''


def _footer(runs: Iterable[Run]) -> str:
    """Where the runs were made: one line, unless they differ."""
    manifests = [status_log.read_manifest(run.folder) for run in runs]
    places = Counter(_place(manifest) for manifest in manifests if manifest)
    lines = [f'{_count(number, "run")}: {place}' for place, number in sorted(
        places.items(), key=lambda item: (-item[1], item[0]))] or ['No run has begun.']
    return f'<footer>{"".join(map(paragraph, lines))}</footer>'


def _place(manifest: dict) -> str:
    versions = ', '.join(f'{name} {number}'
                         for name, number in sorted(manifest['versions'].items()))
    changes = ' with uncommitted changes' if manifest['uncommitted'] else ''
    return (f'Python {manifest["python"]}, {versions}; {manifest["devices"]} × '
            f'{manifest["device"]}, {_count(manifest["cores"], "core")}; commit '
            f'{manifest["commit"] or "unknown"}{changes}.')
