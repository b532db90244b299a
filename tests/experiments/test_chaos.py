"""Two hundred trials whose workers and launcher are killed give what nobody disturbed.

Ten minutes on two cores: `pytest -m slow -s tests/experiments/test_chaos.py`.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import attempts
from experiments.runner import sweep as sweeps

ROOT = Path(__file__).parents[2]
KILLS = 30
WORKERS = 3
TOML = '''
title = 'Two hundred trials'
[[table]]
title = 'Small VAEs'
experiment = 'vae'
metric = 'neg_elbo'
label = 'test -ELBO'
flags = {latent = 2, sweeps = 40, evaluations = 2}
product = {hidden = [4, 8], order = ['joint', 'decoder,encoder'], \
learning_rate = [1e-3, 1e-2], seed = %s}
''' % list(range(25))


@pytest.fixture
def launch(tmp_path):
    """folder -> a launcher's process, whose words go to a file beside the folder."""
    path = tmp_path / 'chaos.toml'
    path.write_text(TOML)
    environment = {**os.environ, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
                   'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'programs')}

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, '-m', 'experiments.runner', str(path),
             f'--workers={WORKERS}', f'--out_dir={folder}', '--checkpoint_every=0.5'],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=words,
            stderr=words)
        started.append(process)
        return process

    started = []
    with open(tmp_path / 'words.txt', 'a') as words:
        yield start
        for process in started:
            process.kill()
            process.wait()


def digests(folder):
    return {run.name: attempts.read_manifest(run)['digests']
            for run in sorted(folder.glob('vae-*'))}


def workers(folder):
    """Process ids of those that work on a folder, from what the kernel lists."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().split(b'\0')
        except OSError:
            continue
        if b'experiments.runner.worker' in words and f'--out_dir={folder}'.encode() in (
                words):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='finds the workers in /proc')
def test_two_hundred_trials_survive_thirty_kills(launch, tmp_path):
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
        for line in attempts.read(storm / trial.folder) if 'outcome' in line)
    begun = sum(attempts.state_of(storm / trial.folder).attempts for trial in trials)
    print(f'{killed} workers and 1 launcher killed; {begun} attempts, {outcomes}')
    assert outcomes['done'] == 200  # none twice
    assert digests(storm) == wanted
    assert begun > 200  # some were indeed interrupted
