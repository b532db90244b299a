"""What ails a trained game, in the words of the doctor, for its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax

import cdgm
from cdgm.diagnosis.game_numbers import Pairs
from cdgm.losses import GanGame


def write_game(folder: Path, game: GanGame, latent_size: int, params: Any,
               model_state: Any = None, *, batch: Any) -> None:
    """Write doctor.txt of a game of two players.

    Args:
      folder: of the run.
      game: whose blocks are named as its losses.
      latent_size: Z.
      params: where it stands.
      model_state: with it; None of a game without.
      batch: a minibatch, as the losses take it.
    """
    def logits(params, batch, key):
        return game.logits(params, model_state, batch, key)

    def points(params, batch, key):
        real, labels = batch if isinstance(batch, tuple) else (batch, None)
        latent = jax.random.normal(key, (len(real), latent_size))
        return real, game.sample(params, model_state, latent, labels, average=False)

    write(folder, game.losses, params, model_state, batch=batch, logits=logits,
          points=points)


def write(folder: Path, losses: Mapping[str, cdgm.LossFn], params: Any,
          model_state: Any = None, *, batch: Any, logits: Pairs, points: Pairs) -> None:
    """Write doctor.txt: the findings of `cdgm.diagnose`, and the numbers it went by.

    Args:
      folder: of the run.
      losses: name of a block -> what it descends.
      params: where it stands.
      model_state: with it; None of a game without.
      batch: a minibatch, as the losses take it.
      logits, points: as `cdgm.diagnosis.game_numbers` takes them.
    """
    descent = cdgm.block_descent({name: cdgm.Block(name, loss, optax.identity())
                                  for name, loss in losses.items()})
    numbers = jax.jit(lambda state, batch: cdgm.diagnosis.game_numbers(
        descent, state, batch, jax.random.key(0), logits=logits, points=points))(
            descent.init(params, model_state), batch)
    findings = [finding.words for finding in cdgm.diagnose(
        {name: float(number) for name, number in numbers.items()})]
    (folder / 'doctor.txt').write_text('\n'.join(
        findings or ['The doctor finds nothing.']) + '\n\n' + ''.join(
            f'{name:32} {float(number):.4g}\n' for name, number in numbers.items()))
