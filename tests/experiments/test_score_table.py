"""Tables of what became of runs."""

import json

import pytest

from experiments import score_table


@pytest.fixture
def folders(tmp_path):
    """Two seeds of one order, a third that is longer, and another order."""
    paths = []
    for number, (order, cycles, seed, accuracy) in enumerate([
            ('joint', 5, 0, 0.5), ('joint', 5, 1, 0.7), ('joint', 9, 0, 0.8),
            ('a,b', 5, 0, 0.25)]):
        folder = tmp_path / f'run-{number}'
        folder.mkdir()
        (folder / 'flags.txt').write_text(
            f'--order={order}\n--cycles={cycles}\n--seed={seed}\n--run_dir={folder}\n')
        (folder / 'metrics.jsonl').write_text(''.join(json.dumps(
            {'cycle': cycle, 'gflop': cycle / 2, 'test': {'accuracy': [accuracy]}})
            + '\n' for cycle in (0, cycles)))
        (folder / 'scores.json').write_text(json.dumps(
            {'facts': {}, 'rows': {'samples': {'accuracy': accuracy}}}))
        paths.append(str(folder))
    return paths


def test_seeds_are_averaged_and_lengths_are_kept_apart(folders, tmp_path, capsys):
    score_table.main([f'--csv={tmp_path / "scores.csv"}', *folders])
    printed = capsys.readouterr().out
    titles = [line for line in printed.splitlines() if line.endswith('seeds')]
    assert titles == ['joint cycles=5: 2 seeds', 'joint cycles=9: 1 seeds',
                      'a,b: 1 seeds']
    assert '| 5 cycles, 2 GFLOP | 0.600 ± 0.100 |' in printed  # half of 0.2
    assert '| samples | 0.250 |' in printed
    assert 'joint cycles=9,samples,accuracy,0.8,' in (
        tmp_path / 'scores.csv').read_text()


def test_an_evaluation_is_a_row(folders, tmp_path, capsys):
    """Without what is of one unit, and without the errors over the examples."""
    for path, nll in zip(folders[:2], (90., 91.)):
        (tmp_path / path / 'scores.json').unlink()
        (tmp_path / path / 'evaluation.json').write_text(json.dumps(
            {'nll': nll, 'nll_error': 0.3, 'kl_dimension_0': 1., 'active_units': 20.}))
    score_table.main([f'--csv={tmp_path / "scores.csv"}', *folders[:2]])
    assert '| test | 90.50 ± 0.50 | 20.0 ± 0.0 |' in capsys.readouterr().out
    rows = (tmp_path / 'scores.csv').read_text().splitlines()
    assert [row.split(',')[2] for row in rows[1:]] == ['nll', 'active_units']
