"""The language model trains by layers, adapts another run, and says what cannot be."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from cdgm import models
from experiments import language_model
from experiments.harness.errors import SettingError

SMALL = ('--width=16', '--depth=2', '--heads=2', '--context=16', '--batch_size=4',
         '--visit=3', '--evaluations=1', '--cycles=2', '--decay_steps=20',
         '--warmup=2')


def call(*flags):
    return subprocess.run(
        [sys.executable, '-m', 'experiments.language_model', *flags],
        capture_output=True, text=True, cwd=Path(__file__).parents[2])


@pytest.fixture(scope='module')
def joint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run') / 'joint'
    done = call(*SMALL, '--order=joint', f'--run_dir={folder}')
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.thorough
def test_a_run_has_nats_bits_and_a_sample(joint):
    rows = [json.loads(line) for line in (
        joint / 'metrics.jsonl').read_text().splitlines()]
    first, last = rows[0]['test'], rows[-1]['test']
    assert first['nats'][0] == pytest.approx(math.log(97), rel=0.02)
    assert last['bits'][0] == pytest.approx(last['nats'][0] / math.log(2), rel=1e-6)
    assert last['nats'][0] < first['nats'][0]
    assert (joint / 'sample.txt').read_text().count('----') == 2


@pytest.mark.thorough
def test_blocks_in_16_bits_adapt_it_with_riders(joint, tmp_path):
    """Only what moved differs from the run that it started from."""
    run = tmp_path / 'run'
    done = call(*SMALL, '--half', '--riders=1e-3', '--reach=deeper', '--cycles=1',
                '--order=ascending', f'--from_run={joint}', f'--run_dir={run}')
    assert done.returncode == 0, done.stderr
    with np.load(joint / 'params.npz') as before, np.load(run / 'params.npz') as after:
        assert after['layers/mlp/up'].dtype == np.uint16
        # The first visit is the embedding's, with which all layers ride.
        assert (after['embedding/token'] != before['embedding/token']).any()
        assert not (after['head/norm'] == 1).all()


@pytest.mark.thorough
def test_adapters_move_alone(joint, tmp_path):
    run = tmp_path / 'run'
    done = call(*SMALL, '--order=joint', '--rank=2', f'--from_run={joint}',
                f'--run_dir={run}')
    assert done.returncode == 0, done.stderr
    with np.load(joint / 'params.npz') as before, np.load(run / 'params.npz') as after:
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
        assert (after['layers/low_rank/mlp_up/b'] != 0).any()


@pytest.mark.parametrize('words, given', [
    ('--order=sideways: choose one of joint', ['--order=sideways']),
    ('--half has no float32', ['--half', '--order=joint']),
    ('--riders and --companions move along', ['--riders=1e-3', '--order=joint']),
    ('does not divide --width=16', ['--heads=3']),
    ('is no text', ['--dataset=digits']),
    ('is not the folder of a complete run', ['--from_run=/nowhere']),
    ('the embedding alone can be one', ['--companions=head']),
    ('trains the adapters together', ['--rank=2']),
    ('has nothing to move', ['--rider_rule=columns']),
    ('each step of a visit has a minibatch', ['--nofresh_minibatches']),
])
def test_flags_that_do_not_go_together_are_one_line(words, given):
    with pytest.raises(SettingError) as caught:
        build(*given)
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.thorough
def test_a_run_of_other_sizes_is_told_by_its_first_leaf(joint):
    with pytest.raises(SettingError) as caught:
        build('--width=32', f'--from_run={joint}')
    assert 'has embedding/position of the shape (16, 16)' in str(caught.value)


def test_a_block_is_drawn_by_its_gradient_a_parameter():
    """The embedding's block: 97 tokens, 16 positions and a norm, of width 16."""
    model = models.transformer(97, width=16, depth=2, heads=2, context=16)
    assert language_model._sizes(model, 2) == [
        (97 + 16 + 1) * 16, *[12 * 16 ** 2 + 2 * 16] * 2]


@pytest.mark.parametrize('rule', ['muon', 'orthogonal'])
def test_a_joint_rule_takes_the_matrices_of_the_stack_by_their_directions(rule):
    """A first step: of a matrix all directions, of a vector Adam's, which is a sign."""
    task = build('--order=joint', f'--optimiser={rule}', '--warmup=0')
    params = jax.eval_shape(task.init, jax.random.key(0))
    grads = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
    tx = language_model._OPTIMISERS[rule]()
    updates, _ = tx.update(grads, tx.init(params))
    singular = np.linalg.svd(updates['layers']['mlp']['up'][1], compute_uv=False)
    assert singular.min() > 0.6 * 64 ** 0.5 and singular.max() < 1.3 * 64 ** 0.5
    for vector in updates['layers']['mlp']['norm'], updates['head']['norm']:
        np.testing.assert_allclose(np.abs(vector), 1, rtol=1e-3)


@pytest.mark.parametrize('rule', list(language_model._RIDER_RULES))
def test_what_rides_keeps_no_state_whatever_its_rule(rule):
    task = build('--riders=1e-3', f'--rider_rule={rule}')
    descent = task.descent({'rate': 1e-3, 'riders': 1e-3})
    jax.eval_shape(descent.init, jax.eval_shape(task.init, jax.random.key(0)))


def build(*given):
    """What a command does before anything compiles."""
    values = flags.FlagValues()
    language_model.define_flags(values)
    values(['language_model', *SMALL, *given])
    language_model.hyper(values)
    return language_model.task(values, language_model.load(values))
