"""Selection: rules that choose the next block by what the last steps did.

A count-based order is a `Schedule`; a rule carries a state, and `cdgm.drive` runs both.
"""

from cdgm.selection._drive import SelectedDescent as SelectedDescent
from cdgm.selection._drive import SelectedDescentState as SelectedDescentState
from cdgm.selection._drive import block_grad_norms as block_grad_norms
from cdgm.selection._drive import drive as drive
from cdgm.selection.aggressive import AggressiveState as AggressiveState
from cdgm.selection.aggressive import aggressive as aggressive
from cdgm.selection.bandit import BanditState as BanditState
from cdgm.selection.bandit import bandit as bandit
from cdgm.selection.catch_up import CatchUpState as CatchUpState
from cdgm.selection.catch_up import catch_up as catch_up
from cdgm.selection.gradient_share import GradientShareState as GradientShareState
from cdgm.selection.gradient_share import gradient_share as gradient_share
from cdgm.selection.greedy import GaussSouthwellState as GaussSouthwellState
from cdgm.selection.greedy import gauss_southwell as gauss_southwell
from cdgm.selection.importance import ImportanceState as ImportanceState
from cdgm.selection.importance import importance as importance
from cdgm.selection.plateau import PlateauState as PlateauState
from cdgm.selection.plateau import plateau as plateau
from cdgm.selection.rule import SelectionRule as SelectionRule
from cdgm.selection.rule import StepStats as StepStats
from cdgm.selection.rule import from_schedule as from_schedule
