"""An experiment of one's own is one file: text, a metric where larger is better, state.

It is written to a folder outside the repository, and nothing else is edited.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.harness.runs.run_folder import load_params, read_rows

ROOT = Path(__file__).parents[2]

TOY = '''"""Predict each character from the one before it."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

import cdgm
from experiments.harness import cli, execute, training_flags
from experiments.harness.task import Experiment, Task

BLOCKS = 'embedding', 'head'


def define_flags(values):
    training_flags.define_flags(values, order='embedding,head', learning_rate='1e-2',
                                batch_size=64, epochs=1, fresh_minibatches=True)
    values['dataset'].value = 'python_docs'


def hyper(values):
    return {'rates': training_flags.read_order(values, BLOCKS).rates}


def logits(params, tokens):
    return params['embedding'][tokens[:, :-1]] @ params['head']


def loss(params, model_state, tokens, key):
    out = logits(params, tokens)
    nats = optax.softmax_cross_entropy_with_integer_labels(out, tokens[:, 1:])
    return nats.mean(), ({'nats': nats.mean()}, {'seen': model_state['seen'] + 1})


def task(values, data):
    size, test = len(data.vocabulary), jnp.asarray(data.test.examples)
    return Task(
        init=lambda key: {'embedding': jax.random.normal(key, (size, 8)),
                          'head': jnp.zeros((8, size))},
        descent=lambda hyper: cdgm.block_descent({
            name: cdgm.Block(name, loss, optax.adam(hyper['rates'][name]))
            for name in BLOCKS}),
        order=training_flags.read_order(values, BLOCKS),
        examples=jnp.asarray(data.train.examples), prepare=lambda batch, key: batch,
        evaluate=lambda params, model_state, hyper: {
            'accuracy': (logits(params, test).argmax(-1) == test[:, 1:]).mean(),
            'seen': model_state['seen'].astype(float)},
        draw=lambda folder, params, model_state: (folder / 'greedy.txt').write_text(
            f'{data.vocabulary[0]!r}: {model_state}'),
        batch_size=values.batch_size, fresh=values.fresh_minibatches,
        model_state=lambda key: {'seen': jnp.int32(0)})


EXPERIMENT = Experiment(
    'toy', {'accuracy': 'higher', 'seen': 'higher'}, define_flags,
    lambda values: ('seed', 'learning_rate'), hyper, task, {'greedy.txt': 'Greedy'})

if __name__ == '__main__':
    cli.run(define_flags, partial(execute.main, EXPERIMENT), __doc__)
'''

SWEEP = '''
title = 'Toy'
[[table]]
title = 'Orders'
experiment = 'toy'
metric = 'accuracy'
label = 'share of characters foretold; higher is better'
flags = {cycles = 20, evaluations = 2, checkpoint_nothing = 0}
product = {order = ['embedding,head', 'head,embedding'], seed = [0]}
'''.replace(', checkpoint_nothing = 0', '')


@pytest.fixture
def toy(tmp_path):
    """(tmp_path, the command of the experiment, its environment)"""
    (tmp_path / 'toy.py').write_text(TOY)
    return (tmp_path, [sys.executable, '-P', 'toy.py'],
            {**os.environ, 'PYTHONPATH': str(ROOT)})


def run(toy, *arguments, program=None):
    folder, command, environment = toy
    return subprocess.run([*(program or command), *arguments], cwd=folder, text=True,
                          env=environment, capture_output=True)


def test_it_is_a_short_file():
    assert len(TOY.splitlines()) <= 60


@pytest.mark.slow
def test_it_resumes_after_a_kill_to_the_same_bits(toy):
    folder, command, environment = toy
    flags = '--cycles=200', '--evaluations=2', '--checkpoint_every=0'
    done = run(toy, *flags, '--run_dir=whole')
    assert done.returncode == 0, done.stderr
    with subprocess.Popen([*command, *flags, '--run_dir=cut'], cwd=folder,
                          env=environment, stdout=subprocess.DEVNULL) as process:
        while not (folder / 'cut/checkpoints/000002').exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    again = run(toy, *flags, '--run_dir=cut')
    assert again.returncode == 0 and 'resuming at cycle' in again.stdout, again.stderr
    one, other = (load_params(folder / name) for name in ('whole', 'cut'))
    for name in one:
        assert np.array_equal(one[name], other[name])
    last = read_rows(folder / 'cut')[-1]
    assert last['test']['seen'] == [400.]  # twice a cycle: the state went through
    assert last['test']['accuracy'][0] > 0.14  # the space alone is 0.15
    assert last['aux']['head']['nats'][0] == pytest.approx(last['loss']['head'][0])


@pytest.mark.thorough
def test_it_is_swept_and_reported(toy):
    folder, _, _ = toy
    (folder / 'grid.toml').write_text(SWEEP)
    program = [sys.executable, '-P', '-m', 'experiments.harness.sweep', 'grid.toml']
    done = run(toy, '--out_dir=out', program=program)
    assert done.returncode == 0, done.stderr
    page = (folder / 'out/report.html').read_text()
    assert 'Greedy, first seed' in page and 'class="artifact"' in page
    assert page.count('class="best"') >= 2
    with open(folder / 'out/tables.csv') as file:
        best = max(csv.DictReader(file), key=lambda row: float(row['at_cycles']))
    line, = [line for line in done.stdout.splitlines() if line.startswith(best['row'])]
    assert ' *' in line, 'the largest, on a terminal as well'
    assert len(list((folder / 'out').glob('toy-*/params.npz'))) == 2
