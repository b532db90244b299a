import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdgm import models
from cdgm.selection import SelectedDescentState, aggressive
from experiments import collapse
from experiments.harness import cli

SETTING = collapse.Setting(epochs=3, batch_size=4, learning_rate=1e-2, warm_up=1.5,
                           beta_start=0.1, free_bits=0.5, ratio=3, early_epochs=1,
                           max_inner=4, window=2, cosine=False)


def test_beta_rises_over_the_warm_up_alone():
    beta, rate = collapse.pace_of(SETTING, 'anneal', steps=4)
    np.testing.assert_allclose(beta.ravel()[:6], np.linspace(0.1, 1, 6), rtol=1e-6)
    assert (beta.ravel()[6:] == 1).all() and beta.shape == (3, 4)
    assert (collapse.pace_of(SETTING, 'joint', 4).beta == 1).all()
    np.testing.assert_allclose(rate, 1e-2)


def test_the_rate_falls_to_zero_over_the_training():
    schedule = optax.cosine_decay_schedule(1e-2, 12)
    rate = collapse.pace_of(SETTING._replace(cosine=True), 'joint', steps=4).rate
    np.testing.assert_allclose(rate.ravel(), [schedule(n) for n in range(12)],
                               rtol=1e-5)


@pytest.mark.thorough
def test_epochs_take_as_many_decoder_steps_whatever_the_encoder_does(key):
    with jax.enable_x64(False):  # as people run it
        model = models.text_vae(6, 3, latent_size=2, hidden=3, embedding=2)
        ours = collapse.programs(model, SETTING, None)
        descent = collapse.blocks(model, collapse.Pace(1., 1e-2), None)
        state = descent.init(model.init(key))
        given = (jnp.arange(60).reshape(20, 3) % 6, key,
                 collapse.Pace(jnp.ones(5), jnp.full(5, 1e-2)))
        _, steps = ours.joint(state, *given)
        assert steps.tolist() == [0, 0, 5]
        _, steps = ours.early(state, *given)
        assert steps.tolist() == [15, 5, 0]
        rule = aggressive(2, inner=0, outer=1, window=2, max_inner=4).init()
        _, steps = ours.aggressive(SelectedDescentState(state, rule), *given,
                                   float('nan'))
    encoder, decoder, both = steps.tolist()
    # Each round has two windows of two steps at most, and at least two.
    assert decoder == 5 and both == 0 and 2 * 5 <= encoder <= 4 * 5


def test_arms_are_compared_seed_by_seed():
    row = collapse.Row('joint', 0, 3., *[0.] * 7, 1., 1., '')
    rows = [row, row._replace(seed=1, nll=5.),
            row._replace(arm='early', seed=1, nll=4.5),
            row._replace(arm='early', nll=3.5)]
    assert collapse.means(rows, nll=2, relative_flops=1) == [
        "joint, 2 seeds: nll 4.00 ± 1.00, less joint's 0.00 ± 0.00, relative_flops 1.0 "
        '± 0.0',
        "early, 2 seeds: nll 4.00 ± 0.50, less joint's 0.00 ± 0.50, relative_flops 1.0 "
        '± 0.0']


@pytest.mark.slow
def test_the_command_writes_a_row_for_each_arm(tmp_path):
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        collapse.main(cli.parse(collapse.define_flags, [
            '--sentences=200', '--epochs=2', '--seeds=1', '--nll_samples=5',
            '--hidden=8', '--max_inner=10', f'--out_dir={tmp_path}']))
        before = (tmp_path / 'collapse.csv').read_text()
        collapse.main(cli.parse(collapse.define_flags, [
            '--sentences=200', '--epochs=2', '--seeds=1', '--nll_samples=5',
            '--hidden=8', '--max_inner=10', f'--out_dir={tmp_path}']))
    assert (tmp_path / 'collapse.csv').read_text() == before
    with open(tmp_path / 'collapse.csv') as stream:
        rows = {row['arm']: row for row in csv.DictReader(stream)}
    assert list(rows) == list(collapse.ARMS)
    assert len({row['decoder_steps'] for row in rows.values()}) == 1
    assert float(rows['joint']['relative_flops']) == 1
    assert all(len(row['watched'].split()) == 2 for row in rows.values())
    assert (tmp_path / 'collapse.png').stat().st_size > 1000
    assert float(rows['early']['relative_flops']) > 1
