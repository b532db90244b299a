"""A row of the table: a statement, what it predicts, and what was measured."""

import math
from typing import Literal, NamedTuple


class Row(NamedTuple):
    """One statement.

    Attributes:
      statement: in words, at most 57 characters.
      prediction: of the closed form.
      measurement: of the library.
      reference: where the statement stands; 'derived' if its proof is in a comment or
        docstring beside the row.
      relation: of the measurement to the prediction.
      tolerance: relative, and absolute where the prediction is zero.
    """

    statement: str
    prediction: float
    measurement: float
    reference: str
    relation: Literal['=', '<=', '>='] = '='
    tolerance: float = 1e-9

    @property
    def difference(self) -> float:
        return self.measurement - self.prediction


def holds(row: Row) -> bool:
    """Say whether the measurement is what the statement says it is."""
    if not math.isfinite(row.measurement):
        return False
    slack = row.tolerance * (abs(row.prediction) or 1)
    match row.relation:
        case '=':
            return abs(row.difference) <= slack
        case '<=':
            return row.difference <= slack
        case '>=':
            return row.difference >= -slack


def verdict(row: Row) -> str:
    return 'holds' if holds(row) else 'FAILS'


def table(rows: list[Row]) -> str:
    """Lay the rows out, one a line."""
    heading = (f'{"statement":<57} {"prediction":>13}    {"measurement":>13} '
               f'{"difference":>10} verdict reference')
    lines = [f'{row.statement:<57} {row.prediction:13.8g} {row.relation:<2} '
             f'{row.measurement:13.8g} {row.difference:10.1e} {verdict(row):<7} '
             f'{row.reference}' for row in rows]
    return '\n'.join([heading, '-' * len(heading), *lines])
