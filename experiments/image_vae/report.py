"""The evaluation at the end of a run: all numbers, and what the doctor says of them."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt

import cdgm
from cdgm.metrics import Refinement

ARTIFACTS = {'evaluation.txt': 'At the end, on the test images',
             'rate_distortion.png': 'The rate that each distortion takes, by the best '
                                    'posterior of each image'}
BETAS = (0.25, 0.5, 1., 2., 4.)  # of the curve
# A quarter of the samples of a step, for each image is descended six times.
REFINEMENT = Refinement(num_samples=2)


def write_report(folder: Path, report: Mapping[str, float]) -> None:
    """Write evaluation.json and, in words, evaluation.txt; print the findings."""
    (folder / 'evaluation.json').write_text(json.dumps(dict(report), indent=1) + '\n')
    (folder / 'evaluation.txt').write_text(words(report))
    if f'rate_at_beta_{BETAS[0]:g}' in report:
        draw_curve(folder / 'rate_distortion.png', report)
    for finding in cdgm.diagnose(report):
        print(f'{finding.ailment}: {finding.words}')


def words(report: Mapping[str, float]) -> str:
    """The report in lines, then the findings of the doctor."""
    lines = [f'{name:<28}{value:.5g}' for name, value in report.items()
             if not name.startswith(('kl_dimension', 'rate_at', 'distortion_at'))]
    findings = [f'{finding.ailment}: {finding.words}'
                for finding in cdgm.diagnose(report)] or ['the doctor finds nothing']
    return '\n'.join(lines + findings) + '\n'


def say(metric: str, done: int, total: int) -> None:
    """Report progress, a line a tenth."""
    if done == total or math.floor(10 * done / total) > math.floor(
            10 * (done - 100) / total):
        print(f'evaluating {metric}: {done} of {total}', file=sys.stderr, flush=True)


def draw_curve(path: Path, report: Mapping[str, float]) -> None:
    """Draw the rate-distortion curve, and where the encoder is."""
    figure, axes = plt.subplots(figsize=(4, 3))
    points = [[report[f'{name}_at_beta_{beta:g}'] for beta in BETAS]
              for name in ('rate', 'distortion')]
    axes.plot(*points, marker='o', label='best posteriors, beta from '
              f'{BETAS[0]:g} to {BETAS[-1]:g}')
    axes.plot(report['kl'], report['reconstruction'], 'x', label='the encoder')
    axes.set(xlabel='rate: KL, nats', ylabel='distortion: −log p(x|z), nats')
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
