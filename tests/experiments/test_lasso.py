import csv

import numpy as np
import pytest

from experiments import lasso
from experiments.harness import cli


def assert_equals_scikit_learn(problem):
    mine, (theirs, _) = lasso.solve(problem), lasso.scikit_learn(problem)
    np.testing.assert_allclose(mine.weights, theirs, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(mine.weights == 0, theirs == 0)
    assert 0 < np.count_nonzero(theirs) < theirs.size


def test_lasso_on_diabetes():
    assert_equals_scikit_learn(lasso.diabetes())


def test_lasso_with_more_weights_than_observations():
    assert_equals_scikit_learn(lasso.sparse(seed=1, rows=60, columns=100))


@pytest.mark.slow
def test_lasso_with_a_thousand_weights():
    assert_equals_scikit_learn(lasso.sparse(seed=0))


def test_stops_at_the_optimality_conditions():
    """In NumPy: |X'r|/n = l1 where a weight is not zero, and less elsewhere."""
    problem = lasso.diabetes()
    weights = lasso.solve(problem).weights
    slopes = problem.inputs.T @ (problem.targets - problem.inputs @ weights) / 442
    on = weights != 0
    np.testing.assert_allclose(slopes[on], problem.l1 * np.sign(weights[on]),
                               atol=1e-13)
    assert np.all(np.abs(slopes[~on]) < problem.l1)


def test_says_when_it_does_not_converge():
    with pytest.raises(RuntimeError, match='the KKT residual is .* after 1 rounds'):
        lasso.solve(lasso.diabetes(), max_rounds=1)


def test_the_command_prints_and_writes(tmp_path, capsys):
    lasso.main(cli.parse(lasso.define_flags, [
        '--problems=diabetes-elastic-net', f'--out_dir={tmp_path}']))
    assert 'reads 442, one\ncolumn' in capsys.readouterr().out
    with open(tmp_path / 'lasso.csv') as stream:
        row, = csv.DictReader(stream)
    assert row['problem'] == 'diabetes-elastic-net' and int(row['nonzeros']) == 8
    assert float(row['difference']) <= 1e-8
