"""The table of theory, row by row, and that the table would show an error."""

import csv
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdgm import Block, block_descent
from experiments import theory
from experiments.harness import cli
from experiments.theory import __main__ as command
from experiments.theory import rows, spectra
from experiments.theory.rows import Row, holds

NAMES = [f'{measure.__module__.rpartition(".")[2]}.{measure.__name__}'
         for measure in theory.ROWS]


@pytest.fixture(scope='module')
def measured():
    """Row of a function, measured once for all tests."""
    seen = {}

    def row(measure):
        if measure not in seen:
            seen[measure] = measure()
        return seen[measure]

    return row


@pytest.mark.parametrize('measure', theory.ROWS, ids=NAMES)
@pytest.mark.sample(40)
def test_the_row_holds(measure, measured):
    row = measured(measure)
    assert holds(row), rows.table([row])


@pytest.mark.parametrize('measure', theory.ROWS, ids=NAMES)
@pytest.mark.sample(20)
def test_the_row_would_fail_on_another_prediction(measure, measured):
    row = measured(measure)
    far = 1e-5 * (abs(row.measurement) or 1)
    shifts = {'=': (-far, far), '<=': (-far,), '>=': (far,)}[row.relation]
    for shift in shifts:
        assert not holds(row._replace(prediction=row.measurement + shift))


@pytest.mark.thorough
def test_statements_are_different_and_fit_the_table(measured):
    statements = [measured(measure).statement for measure in theory.ROWS]
    assert len(set(statements)) == len(theory.ROWS) >= 24
    assert max(map(len, statements)) <= 57


def test_what_is_not_finite_fails():
    for relation in ('=', '<=', '>='):
        for value in (math.nan, math.inf, -math.inf):
            assert not holds(Row('', 0., value, '', relation))


@pytest.mark.thorough
def test_equalities_are_at_least_as_close_as_a_millionth(measured):
    for row in map(measured, theory.ROWS):
        assert row.tolerance <= 1e-6


def write_command(monkeypatch, tmp_path, *table):
    monkeypatch.setattr(theory, 'ROWS', tuple(lambda row=row: row for row in table))
    monkeypatch.setattr(command.drawings, 'draw', lambda folder: None)
    monkeypatch.setattr(sys, 'argv', ['theory', f'--out_dir={tmp_path}'])
    cli.run(command.define_flags, command.main, '')


GOOD, BAD = Row('one', 1., 1., 'a'), Row('two, "quoted"', 1., 2., 'b')


def test_the_command_writes_the_table(monkeypatch, tmp_path, capsys):
    write_command(monkeypatch, tmp_path, GOOD)
    assert '1 of 1 rows hold' in capsys.readouterr().out
    assert json.loads((tmp_path / 'theory.json').read_text()) == [
        {'statement': 'one', 'prediction': 1., 'relation': '=', 'measurement': 1.,
         'difference': 0., 'verdict': 'holds', 'reference': 'a'}]


def test_a_row_that_fails_is_seen_in_the_exit_status(monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as ended:
        write_command(monkeypatch, tmp_path, GOOD, BAD)
    assert ended.value.code == 1
    with open(tmp_path / 'theory.csv', newline='') as stream:
        assert [(row['statement'], row['verdict']) for row in csv.DictReader(stream)
                ] == [('one', 'holds'), ('two, "quoted"', 'FAILS')]


def test_the_matrix_of_a_step_covers_the_memories_of_rules():
    """Gradient descent with momentum on x^2/2: x+ = x - h m+, m+ = x + beta m."""
    h, beta = 0.3, 0.6
    descent = block_descent({'x': Block(
        '', lambda x, batch, key: (x ** 2 / 2, None), optax.sgd(h, momentum=beta))})
    state = descent.init(jnp.array(5.))
    matrix = spectra.jacobian(
        lambda state: descent.step(state, None, theory.games.KEY, 'x')[0],
        spectra.settled(state))
    np.testing.assert_allclose(matrix, [[1 - h, -h * beta], [1, beta]], rtol=1e-14)
    assert spectra.radius(matrix) == pytest.approx(math.sqrt(beta), rel=1e-14)


def test_the_threshold_is_bisected_from_either_side():
    for sign in (-1, 1):
        found = spectra.threshold(lambda x, sign=sign: sign * x > sign * 2, 1., 4.)
        assert found == pytest.approx(2, rel=1e-15)
    assert math.isnan(spectra.threshold(lambda x: x > 5, 1., 4.))
