"""What ails a trained GAN, in the words of the doctor, for its folder."""

from pathlib import Path
from typing import Any

import jax
import optax

import cdgm
from cdgm.losses import GanGame


def write(folder: Path, game: GanGame, params: Any, model_state: Any = None, *,
          batch: Any) -> None:
    """Write doctor.txt: the findings of `cdgm.diagnose`, and the numbers it went by.

    Args:
      folder: of the run.
      game: whose blocks are named as its losses.
      params: where it stands.
      model_state: with it; None of a game without.
      batch: a minibatch, as the losses take it.
    """
    descent = cdgm.block_descent({
        name: cdgm.Block(name, loss, optax.identity())
        for name, loss in game.losses.items()})
    key = jax.random.key(0)

    def logits(params, batch, key):
        return game.logits(params, model_state, batch, key)

    numbers = jax.jit(lambda state, batch: cdgm.diagnosis.game_numbers(
        descent, state, batch, key, logits=logits))(
            descent.init(params, model_state), batch)
    findings = [finding.words for finding in cdgm.diagnose(
        {name: float(number) for name, number in numbers.items()})]
    (folder / 'doctor.txt').write_text('\n'.join(
        findings or ['The doctor finds nothing.']) + '\n\n' + ''.join(
            f'{name:32} {float(number):.4g}\n' for name, number in numbers.items()))
