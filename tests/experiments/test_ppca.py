import csv

import numpy as np
import pytest

from cdgm import models
from experiments import ppca
from experiments.harness import cli

RNG = np.random.default_rng(20)
X = RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5)) + 2


def test_condensed_points_have_the_mean_and_covariance_of_the_data():
    few = ppca.condense(X)
    assert few.shape == (10, 5)
    np.testing.assert_allclose(few.mean(0), X.mean(0))
    np.testing.assert_allclose(np.cov(few.T, bias=True), np.cov(X.T, bias=True))


@pytest.mark.thorough
def test_exact_blocks_rise_at_every_half_step_and_end_at_the_optimum():
    path = ppca.exact_path(ppca.condense(X), 2, 100, seed=0)
    best = models.ppca_optimum(X, 2)
    assert len(path.values) == 401 and np.diff(path.values).max() < 1e-12
    assert -1e-12 < path.values[-1] - best.nll < 1e-6
    np.testing.assert_allclose(models.linear_nll(path.params, X), best.nll, atol=1e-6)


@pytest.mark.thorough
def test_gradient_blocks_end_near_the_optimum():
    path = ppca.gradient_path(ppca.condense(X), 2, 1500, 3e-2, seed=0)
    assert 0 < path.values[-1] - models.ppca_optimum(X, 2).nll < 1e-2


def test_a_row_that_does_not_hold_says_so():
    text = ppca.table(1., [ppca.Row('this', 0.5, 1.), ppca.Row('that', 2., 1.)])
    assert 'holds' in text.splitlines()[1] and 'FAILS' in text.splitlines()[2]


@pytest.mark.slow
def test_the_command_holds_every_row(tmp_path):
    ppca.main(cli.parse(ppca.define_flags, [f'--out_dir={tmp_path}']))
    with open(tmp_path / 'ppca.csv') as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8 and {row['holds'] for row in rows} == {'True'}
