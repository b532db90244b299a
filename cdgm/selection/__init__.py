"""Selection: rules that choose the next block by what the last steps did.

A count-based order is a `Schedule`; a rule carries a state, and `cdgm.drive` runs both.
"""

from cdgm.selection.aggressive import AggressiveState as AggressiveState
from cdgm.selection.aggressive import aggressive as aggressive
from cdgm.selection.bandit import BanditState as BanditState
from cdgm.selection.bandit import bandit as bandit
from cdgm.selection.greedy import GaussSouthwellState as GaussSouthwellState
from cdgm.selection.greedy import gauss_southwell as gauss_southwell
from cdgm.selection.importance import ImportanceState as ImportanceState
from cdgm.selection.importance import importance as importance
from cdgm.selection.plateau import PlateauState as PlateauState
from cdgm.selection.plateau import plateau as plateau
from cdgm.selection.rule import Rule as Rule
from cdgm.selection.rule import Seen as Seen
from cdgm.selection.rule import from_schedule as from_schedule
