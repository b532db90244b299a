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

from experiments.harness.report import tables
from experiments.harness.report.section import command, paragraph, section
from experiments.harness.report.tables import Results, Run
from experiments.harness.runs import atomic, status_log
from experiments.harness.sweep import sweep_status
from experiments.harness.sweep.spec import Sweep

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2430; --soft: #4a5568;
        --line: #d9dee6; --faint: #f2f4f7; --wrong: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14181f; --ink: #dfe4ec; --soft: #a3adbd; --line: #343c49;
          --faint: #1f2530; --wrong: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 1rem/1.55 system-ui, sans-serif; color: var(--ink); margin: 0 auto;
       background: var(--page); max-width: 66rem; padding: 2rem 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 0 0 .5rem; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.75rem; }
.lead, figcaption, footer, .note { color: var(--soft); }
figcaption, footer, .note { font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-spacing: 0; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .375rem 0 .375rem 1.5rem; text-align: right; white-space: nowrap;
         line-height: 1.5rem; vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
th:first-child, .text { text-align: left; }
thead > tr > * { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody > tr > * { border-bottom: 1px solid var(--line); }
.best { font-weight: 700; }
.wrong, a[href="#failures"] { color: var(--wrong); }
.some { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; height: auto; display: block; }
figcaption { margin-top: .35rem; overflow-wrap: anywhere; }
.panels, .pictures { display: grid; gap: 1.25rem; margin: .5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(46%, 14rem), 1fr)); }
.artifact { white-space: pre-wrap; margin: 0; max-height: 24rem; overflow: auto; }
audio { width: 100%; }
.pictures img { background: #fff; border-radius: 3px; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: .5rem 0;
          padding: 0; list-style: none; font-size: .875rem; }
.legend span { display: inline-block; width: 1.5rem; margin-right: .5rem;
               vertical-align: middle; border-top: 3px solid; }
details { margin-top: 1.5rem; }
summary { cursor: pointer; font-weight: 600; }
details h4 { font-size: .9rem; margin: 1rem 0 .25rem; }
code, pre { font: .8125rem/1.5 ui-monospace, monospace; }
pre { background: var(--faint); border-radius: 3px; margin: 0; overflow-x: auto;
      padding: .6rem .75rem; }
footer { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1rem;
         overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  table { font-size: .875rem; }
  th, td { padding-left: 1rem; }
  tr > :first-child { position: sticky; left: 0; background: var(--page); } }
@media print {
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""


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
    title = html.escape(sweep.title)
    return '\n'.join([
        '<!doctype html>', '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{title}</title><style>{_STYLE}</style></head><body>',
        f'<header><h1>{title}</h1>', paragraph(sweep.about, 'lead'),
        _progress(runs.values()), '</header>',
        *(section(result, runs) for result in results),
        _failures(runs.values()), _footer(runs.values()), '</body></html>\n'])


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
