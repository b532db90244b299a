import csv
import json

import jax
import pytest

from cdgm import losses, models
from experiments import split_objective
from experiments.harness import cli


def test_only_joint_and_descent_share_a_loss():
    pairs = split_objective.objectives(models.vae((8, 8, 1), 2, (4,)))
    for name, blocks in pairs.items():
        assert (blocks['encoder'] is blocks['decoder']) == (name in ('joint',
                                                                     'descent'))
    assert pairs['split']['encoder'].func is losses.posterior_kl
    assert pairs['wake-sleep']['encoder'].func is losses.sleep


@pytest.mark.slow
def test_the_split_collapses_and_the_others_do_not(tmp_path):
    with jax.enable_x64(False), jax.numpy_rank_promotion('allow'):
        split_objective.main(cli.parse(split_objective.define_flags, [
            '--epochs=40', f'--out_dir={tmp_path}']))
    with open(tmp_path / 'split_objective.csv') as stream:
        rows = {row['objectives']: row for row in csv.DictReader(stream)}
    assert float(rows['split']['kl']) < 0.01
    for name in ('joint', 'descent', 'wake-sleep'):
        assert float(rows[name]['kl']) > 1
        assert float(rows[name]['neg_elbo']) < float(rows['split']['neg_elbo'])
    assert set(json.loads((tmp_path / 'split_objective.json').read_text())) == set(rows)
