"""Runs at equal budgets: curves that are known between their evaluations."""

import json

import numpy as np
import pytest

from experiments.harness.report import compare
from experiments.harness.report.compare import Curve, mean_error, read_curve


def rows(cycles, gflop_per_cycle, metric=lambda cycle: [10. - cycle, 12. - cycle]):
    """Metrics of two seeds, evaluated every second cycle, that fall by one a cycle."""
    return [{'cycle': cycle, 'gflop': gflop_per_cycle * cycle, 'loss': {},
             **({'test': {'neg_elbo': metric(cycle)}} if cycle % 2 == 0 else {})}
            for cycle in range(cycles + 1)]


def test_reads_the_evaluations():
    curve = read_curve(rows(4, 3.), 'neg_elbo')
    np.testing.assert_array_equal(curve.cycle, [0, 2, 4])
    np.testing.assert_array_equal(curve.gflop, [0, 6, 12])
    np.testing.assert_array_equal(curve.values, [[10, 12], [8, 10], [6, 8]])


def test_interpolates_at_what_all_runs_reached():
    curves = {'dear': read_curve(rows(6, 4.), 'neg_elbo'),
              'cheap': read_curve(rows(4, 2.5), 'neg_elbo')}
    result = compare.compare(curves)
    assert (result.cycles, result.gflop) == (4, 10)
    for values in result.at_cycles.values():
        np.testing.assert_allclose(values, [6, 8])
    # Ten GFLOP are two and a half cycles of the one, and four of the other.
    np.testing.assert_allclose(result.at_gflop['dear'], [7.5, 9.5])
    np.testing.assert_allclose(result.at_gflop['cheap'], [6, 8])


def test_interpolation_is_linear_between_neighbours():
    curve = Curve(np.array([0., 1., 3.]), np.array([0., 10., 20.]),
                  np.array([[9.], [3.], [1.]]))
    short = Curve(np.array([0., 2.]), np.array([0., 15.]), np.zeros((2, 1)))
    result = compare.compare({'long': curve, 'short': short})
    assert result.at_cycles['long'] == 2 and result.at_gflop['long'] == 2


@pytest.mark.parametrize('values, digits, text', [
    ([1., 2., 3.], 2, '2.00 ± 0.58'), ([0.1, 0.3], 4, '0.2000 ± 0.1000'),
    ([2.5], 1, '2.5'), ([-1., 1.], 0, '0 ± 1')])
def test_mean_error(values, digits, text):
    assert mean_error(np.array(values), digits).replace('-0', '0') == text


def test_prints_a_line_a_run(tmp_path, capsys):
    for name, cost in ('dear', 4.), ('cheap', 2.5):
        (tmp_path / name).mkdir()
        lines = [json.dumps(row) + '\n' for row in rows(4, cost)]
        (tmp_path / name / 'metrics.jsonl').write_text(''.join(lines))
    compare.main([str(tmp_path / 'dear'), str(tmp_path / 'cheap')])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == 'test neg_elbo at 4 cycles at 10 GFLOP a seed'.split()
    assert [line.split() for line in lines] == [
        'dear 7.00 ± 1.00 8.50 ± 1.00'.split(),
        'cheap 7.00 ± 1.00 7.00 ± 1.00'.split()]


def test_help(capsys):
    compare.main(['--help'])
    assert capsys.readouterr().out == compare.__doc__ + '\n'
