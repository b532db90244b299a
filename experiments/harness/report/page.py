"""A page that needs nothing else: no script, no network, pictures and sounds inside.

The page of a sweep has tables; the page of a single run shows what it wrote.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.harness.report import artifacts
from experiments.harness.runs import atomic

STYLE = """
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
.artifact { white-space: pre; margin: 0; max-height: 24rem; overflow: auto; }
audio { width: 100%; }
.many { grid-template-columns: repeat(auto-fill, minmax(min(46%, 9rem), 1fr)); }
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


def html_page(title: str, head: Sequence[str], body: Sequence[str]) -> str:
    """Write a page.

    Args:
      title: of it, plain text.
      head: HTML below the title.
      body: HTML of the rest.
    """
    title = html.escape(title)
    return '\n'.join([
        '<!doctype html>', '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{title}</title><style>{STYLE}</style></head><body>',
        f'<header><h1>{title}</h1>', *head, '</header>', *body, '</body></html>\n'])


def write_run_page(folder: Path, title: str, about: str, files: Mapping[str, str]
                   ) -> Path:
    """Show what a run wrote in report.html of its folder.

    Args:
      folder: of the run.
      title: of the page.
      about: a paragraph.
      files: as in `Experiment.artifacts`.

    Returns:
      The path of the page.
    """
    shown = {(file, name): artifacts.show(folder, file, name)
             for file, name in files.items()}
    sections = [f'<section><h2>{html.escape(name)}</h2>'
                f'{artifacts.gallery(artifacts.kind(file), found)}</section>'
                for (file, name), found in shown.items() if found]
    path = folder / 'report.html'
    with atomic.atomic_write(path) as file:
        file.write(html_page(title, [f'<p class="lead">{html.escape(about)}</p>'],
                             sections))
    return path
