"""cdgm: train generative models by coordinate descent, one block at a time.

The names that every program needs are here; the rest is in the namespaces
`cdgm.schedules`, `cdgm.selection` (rules that choose the next block), `cdgm.moves` (how
a block moves when not by optax), `cdgm.games`, `cdgm.transforms` and `cdgm.stateless`
(of optax's kind; without state, for riders), `cdgm.layers`, and in `cdgm.losses`,
`cdgm.models`, `cdgm.data`, `cdgm.metrics` and `cdgm.audio`.
"""

from cdgm import (
    audio, blocks, data, diagnosis, games, layers, losses, metrics, models, moves,
    reuse, schedules, selection, stateless, transforms)
from cdgm._explain import Explanation, Memory, explain, memory
from cdgm.blocks import label
from cdgm.descent import (
    Block, Descent, DescentState, LossFn, StepInfo, block_descent)
from cdgm.diagnosis import Finding, diagnose
from cdgm.schedules import Schedule, cyclic, phases, sequence, shuffled, uniform
from cdgm.selection import drive
from cdgm.transform import CoordinateDescentState, coordinate_descent

__version__ = '0.1.0'

__all__ = [
    'Block', 'CoordinateDescentState', 'Descent', 'DescentState', 'Explanation',
    'Finding', 'LossFn', 'Memory', 'Schedule', 'StepInfo', 'audio', 'block_descent',
    'blocks', 'coordinate_descent', 'cyclic', 'data', 'diagnose', 'diagnosis', 'drive',
    'explain', 'games', 'label', 'layers', 'losses', 'memory', 'metrics', 'models',
    'moves', 'phases', 'reuse', 'schedules', 'selection', 'sequence', 'shuffled',
    'stateless', 'transforms', 'uniform']
