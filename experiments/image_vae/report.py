"""The evaluation at the end of a run: all numbers, and what the doctor says of them."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import cdgm


def write_report(folder: Path, report: Mapping[str, float]) -> None:
    """Write evaluation.json and, in words, evaluation.txt; print the findings."""
    (folder / 'evaluation.json').write_text(json.dumps(dict(report), indent=1) + '\n')
    (folder / 'evaluation.txt').write_text(words(report))
    for finding in cdgm.diagnose(report):
        print(f'{finding.ailment}: {finding.words}')


def words(report: Mapping[str, float]) -> str:
    """The report in lines, then the findings of the doctor."""
    lines = [f'{name:<28}{value:.5g}' for name, value in report.items()
             if not name.startswith('kl_dimension')]
    findings = [f'{finding.ailment}: {finding.words}'
                for finding in cdgm.diagnose(report)] or ['the doctor finds nothing']
    return '\n'.join(lines + findings) + '\n'


def say(metric: str, done: int, total: int) -> None:
    """Report progress, a line a tenth."""
    if done == total or math.floor(10 * done / total) > math.floor(
            10 * (done - 100) / total):
        print(f'evaluating {metric}: {done} of {total}', file=sys.stderr, flush=True)
