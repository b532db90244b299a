"""A sweep of 24 short trials against a process for each of its command lines.

    python -m benchmarks.trials [--quick]

The small VAE (64-32-8, batch 128, 200 sweeps) in 3 orders at 2 learning rates with 4
seeds: 3 compiled programs. All ways have as many processes at a time as there are
cores. A sweep's time includes its report. A process each is measured twice: with
nothing kept between processes, as where a launcher starts any program, and with the
cache of compiled programs that the experiments have by default. Caches are empty at the
start.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Bar
from experiments.harness.runs import status_log
from experiments.harness.runs.provenance import cores
from experiments.harness.sweep import spec as sweeps

TOML = '''
title = 'Trials'
[[table]]
title = 'Small VAEs'
experiment = 'vae'
metric = 'neg_elbo'
label = 'test -ELBO'
flags = {hidden = 32, latent = 8, cycles = 200, evaluations = 4}
product = {order = ['joint', 'decoder,encoder', 'encoder,decoder'], \
learning_rate = [1e-3, 3e-4], seed = [0, 1, 2, 3]}
'''
WORKERS = cores()


def run_all(commands: Iterable[list[str]], cache: Path | None) -> float:
    """Seconds that commands take, so many at a time, with or without a cache."""
    environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(cache or '')}

    def run(command):
        subprocess.run([sys.executable, '-m', *command], check=True, env=environment,
                       capture_output=True)

    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run, commands))
    return time.perf_counter() - began


def digests(folder: Path, trials: Iterable[sweeps.Trial]) -> list[dict[str, str]]:
    """What the trials of a folder have computed."""
    return [(status_log.read_manifest(folder / trial.folder) or {})['digests']
            for trial in trials]


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / 'trials.toml'
        path.write_text(TOML)
        override = ['cycles=2'] if args.quick else []
        trials = sweeps.read(path, override).trials
        swept = run_all([[
            'experiments.harness.sweep', str(path), f'--out_dir={folder / "sweep"}',
            f'--workers={WORKERS}', *(f'--set={word}' for word in override)]],
            folder / 'programs of the sweep')

        def each(name: str, cache: Path | None) -> float:
            return run_all([
                [f'experiments.{trial.experiment}', *trial.arguments,
                 f'--run_dir={folder / name / trial.folder}'] for trial in trials],
                cache)

        alone = each('alone', None)
        cached = each('cached', folder / 'programs of each')
        identical = (digests(folder / 'sweep', trials)
                     == digests(folder / 'alone', trials)
                     == digests(folder / 'cached', trials))
    measure.finish('trials', {'trials': [{
        'program': f'{len(trials)} trials, {WORKERS} processes at a time',
        'sweep, s': swept, 'a process each, s': alone, 'cached, s': cached,
        'identical': identical}]},
        [Bar('a sweep against a process each (at most 1/5)', swept / alone, 0.2),
         Bar('against a process each with a cache of programs', swept / cached, 0.2)],
        args)
    if not identical:
        sys.exit('error: a trial of the sweep has other digests than alone.')


if __name__ == '__main__':
    main()
