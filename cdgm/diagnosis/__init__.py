"""The doctor: what ails a model or a game, in words, with the number that shows it.

Each check is a function of the numbers that it needs, by their names in a flat dict; a
check whose numbers are not there is left out. Every limit is a default of the check and
is printed with what was seen, so that nobody need believe it.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from cdgm.descent import Descent, DescentState
from cdgm.diagnosis import games, latents
from cdgm.diagnosis.game_numbers import Pairs, game_numbers

__all__ = ['Finding', 'diagnose', 'game_numbers']

CHECKS = latents.CHECKS | games.CHECKS


class Finding(NamedTuple):
    """One ailment.

    Attributes:
      ailment: a short name.
      words: one sentence, with the number that shows it and what to do.
    """

    ailment: str
    words: str


def diagnose(patient: Mapping[str, float] | Descent, state: DescentState | None = None,
             batch: Any = None, key: Any = None, *, logits: Pairs | None = None,
             points: Pairs | None = None) -> list[Finding]:
    """Say what ails a model, by its numbers, or a game, as it stands.

    Args:
      patient: name -> number, of `cdgm.metrics.evaluate_vae` or of `game_numbers`; or
        the blocks of a game, whose numbers are then taken here.
      state, batch, key, logits, points: of a game, as `game_numbers` takes them.

    Returns:
      The findings, none if nothing was found.

    Raises:
      TypeError: blocks without a state, or numbers with one.

    >>> report = {'kl': 0.02, 'mutual_information': 0.01, 'latent_size': 20.,
    ...           'active_units': 3.}
    >>> [finding.ailment for finding in diagnose(report)]
    ['collapsed']
    """
    report: Mapping[str, Any]
    if isinstance(patient, Descent) and state is not None:
        report = {name: float(number) for name, number in game_numbers(
            patient, state, batch, key, logits=logits, points=points).items()}
    elif isinstance(patient, Mapping) and state is None:
        report = patient
    else:
        raise TypeError('diagnose takes a dict of numbers alone, or the blocks of a '
                        f'game with its state; got {type(patient).__name__} and '
                        f'{type(state).__name__}.')
    findings = []
    for ailment, check in CHECKS.items():
        needs = [name for name, parameter in inspect.signature(check).parameters.items()
                 if parameter.default is parameter.empty]
        if all(name in report for name in needs):
            words = check(**{name: report[name] for name in needs})
            if words is not None:
                findings.append(Finding(ailment, words + '.'))
    return findings
