"""A table that goes on where it was."""

from typing import NamedTuple

import pytest

from experiments.harness.errors import SettingError
from experiments.harness.report.kept_table import open_table, read_table, write_table


class Row(NamedTuple):
    arm: str
    seed: int
    nll: float


ROWS = [Row('joint, all', 0, 1 / 3), Row('early', 1, 2.)]


def test_rows_are_there_again_to_the_digits_that_were_written(tmp_path):
    file = tmp_path / 'a/rows.csv'
    assert open_table(file, Row, {'steps': 3}) == []
    write_table(file, Row, ROWS, digits=4)
    again = open_table(file, Row, {'steps': 3})
    assert again == [ROWS[0]._replace(nll=0.3333), ROWS[1]]
    assert [type(cell) for cell in again[1]] == [str, int, float]
    write_table(file, Row, again, digits=4)
    assert read_table(file, Row) == again
    assert {path.name for path in file.parent.iterdir()} == {'rows.csv',
                                                             'settings.json'}


def test_rows_of_other_settings_are_refused_and_stay(tmp_path):
    file = tmp_path / 'rows.csv'
    open_table(file, Row, {'steps': 3, 'width': 8})
    write_table(file, Row, ROWS)
    with pytest.raises(SettingError, match='steps is 4 and was 3; give another'):
        open_table(file, Row, {'steps': 4, 'width': 8})
    assert len(open_table(file, Row, {'steps': 3, 'width': 8})) == 2


def test_what_stops_half_way_leaves_the_table_that_was(tmp_path):
    file = tmp_path / 'rows.csv'
    write_table(file, Row, ROWS[:1])

    def stopping():
        yield ROWS[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(file, Row, stopping())
    assert [row.arm for row in read_table(file, Row)] == ['joint, all']
