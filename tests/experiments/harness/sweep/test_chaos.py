"""Two hundred trials whose workers and launcher are killed give what nobody disturbed.

Ten minutes on two cores: `pytest -m slow -s` with this file.
"""

import collections
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from experiments.harness.runs import status_log
from experiments.harness.sweep import spec as sweeps

KILLS = 30
WORKERS = 3
TOML = '''
title = 'Two hundred trials'
[[table]]
title = 'Small VAEs'
experiment = 'vae'
metric = 'neg_elbo'
label = 'test -ELBO'
flags = {latent = 2, cycles = 3000, evaluations = 2}
product = {hidden = [4, 8], order = ['joint', 'decoder,encoder'], \
learning_rate = [1e-3, 1e-2], seed = %s}
''' % list(range(25))


def digests(folder):
    return {run.name: status_log.read_manifest(run)['digests']
            for run in sorted(folder.glob('vae-*'))}


def workers(folder):
    """Process ids of those that work on a folder, from what the kernel lists."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().split(b'\0')
        except OSError:
            continue
        wanted = {b'experiments.harness.sweep.worker', f'--out_dir={folder}'.encode()}
        if wanted <= {*words}:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='finds the workers in /proc')
def test_two_hundred_trials_survive_thirty_kills(launch_sweep, tmp_path):
    def launch(folder):
        return launch_sweep(TOML, folder, f'--workers={WORKERS}',
                            '--checkpoint_every=0.5')

    calm, storm = tmp_path / 'calm', tmp_path / 'storm'
    assert launch(calm).wait(timeout=1500) == 0
    wanted = digests(calm)
    assert len(wanted) == 200

    draw, killed, first = random.Random(0), 0, launch(storm)
    time.sleep(8)
    second = launch(storm)  # at the same time
    while killed < KILLS or first is not None:
        time.sleep(draw.uniform(1, 5))
        assert second.poll() is None, 'over before it was disturbed enough'
        there = workers(storm)
        if there:
            os.kill(draw.choice(there), signal.SIGKILL)
            killed += 1
        if killed > KILLS // 2 and first is not None:
            first.kill()
            first.wait()
            first = None
    assert second.wait(timeout=1500) == 0

    trials = sweeps.load(storm).trials
    outcomes = collections.Counter(
        line['outcome'] for trial in trials
        for line in status_log.read(storm / trial.folder) if 'outcome' in line)
    begun = sum(status_log.state_of(storm / trial.folder).attempts for trial in trials)
    print(f'{killed} workers and 1 launcher killed; {begun} attempts, {outcomes}')
    assert outcomes['done'] == 200  # none twice
    assert digests(storm) == wanted
    assert begun > 200  # some were indeed interrupted
