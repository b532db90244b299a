"""A sweep on a real Slurm: one trial killed, one cancelled, one requeued, none lost.

`tests/loopback_slurm.sh up` starts a Slurm; SLURM_CONF says which. Three minutes on two
cores.
"""

import os
import signal
import subprocess
import time

import numpy as np
import pytest

from experiments.harness.runs import status_log
from experiments.harness.sweep import spec as sweeps, sweep_status

TOML = '''
title = 'Eight trials'
[[table]]
title = 'Small VAEs'
experiment = 'vae'
metric = 'neg_elbo'
label = 'test -ELBO'
flags = {hidden = 8, latent = 2, cycles = 10000, evaluations = 2}
product = {order = ['joint', 'decoder,encoder'], seed = [0, 1, 2, 3]}
'''


@pytest.fixture
def launch(launch_sweep):
    """(folder, *flags) -> a launcher's process."""
    try:
        subprocess.run(['sinfo'], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        pytest.skip('no Slurm answers sinfo: export SLURM_CONF; SLURM_CONF='
                    '$(tests/loopback_slurm.sh up)')
    return lambda folder, *flags, toml=TOML: launch_sweep(
        toml, folder, '--checkpoint_every=0.3', *flags)


def digests(folder):
    return {run.name: status_log.read_manifest(run)['digests']
            for run in sorted(folder.glob('vae-*'))}


def attempt(run):
    """The line of an attempt of a trial, once it has something to go on from."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        # The first checkpoint may be of its beginning.
        numbers = [int(path.name) for path in (run / 'checkpoints').glob('[0-9]*')]
        if max(numbers, default=0) > 2:
            return status_log.read(run)[-1]
        time.sleep(0.1)
    raise AssertionError(f'{run} was not seen at work')


@pytest.mark.slurm
def test_an_array_of_eight_trials(launch, tmp_path):
    calm, storm = tmp_path / 'calm', tmp_path / 'storm'
    undisturbed = launch(calm, '--workers=2')
    assert undisturbed.wait(timeout=600) == 0, undisturbed.stdout.read()

    first = launch(storm, '--cluster=slurm', '--trials_per_job=1', '--parallelism=3')
    while not (storm / 'sweep.json').exists():
        time.sleep(0.1)
    sweep = sweeps.load(storm)
    killed, cancelled, requeued = (storm / trial.folder for trial in sweep.trials[:3])
    os.kill(attempt(killed)['pid'], signal.SIGKILL)
    subprocess.run(['scancel', attempt(cancelled)['job']], check=True)
    job = attempt(requeued)['job']
    subprocess.run(['scontrol', 'requeue', job], check=True)
    words = first.communicate(timeout=600)[0]
    assert first.returncode == 1, words
    assert 'submitted 8 jobs to Slurm' in words
    assert '1 of 8 trials are not done, and no job is left' in words
    seen = sweep_status.read_status(sweep, storm)
    assert [trial.folder for trial in seen.in_state('preempted')] == [cancelled.name]
    assert len(seen.in_state('done')) == 7

    second = launch(storm, '--cluster=slurm', '--trials_per_job=1')
    words = second.communicate(timeout=600)[0]
    assert second.returncode == 0, words
    assert 'submitted 1 jobs to Slurm' in words
    assert digests(storm) == digests(calm)
    for run in killed, cancelled, requeued:
        begun = [line['cycle'] for line in status_log.read(run) if 'began' in line]
        assert len(begun) == 2 and begun[0] == 0 < begun[1]
    for trial in sweep.trials:
        outcomes = [line.get('outcome')
                    for line in status_log.read(storm / trial.folder)]
        assert outcomes.count('done') == 1
        if storm / trial.folder not in (killed, cancelled, requeued):
            assert outcomes == [None, 'done']


@pytest.mark.slurm
def test_the_processes_of_a_job_train_a_trial_together(launch, tmp_path):
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    toml = TOML.replace('cycles = 10000', 'cycles = 50').replace(
        "['joint', 'decoder,encoder'], seed = [0, 1, 2, 3]", "['decoder,encoder']")
    first = launch(alone, '--workers=1', toml=toml)
    assert first.wait(timeout=600) == 0, first.stdout.read()

    second = launch(together, '--cluster=slurm', '--processes_per_node=2',
                    '--mesh=data=2', toml=toml)
    words = second.communicate(timeout=600)[0]
    assert second.returncode == 0, words
    run, = together.glob('vae-*')
    assert [line.get('outcome') for line in status_log.read(run)] == [None, 'done']
    assert status_log.read_manifest(run)['devices'] == 2
    with np.load(run / 'params.npz') as got, np.load(
            alone / run.name / 'params.npz') as want:
        for name, leaf in want.items():
            np.testing.assert_allclose(got[name], leaf, atol=1e-5)
