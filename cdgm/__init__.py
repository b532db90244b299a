"""cdgm: train generative models by coordinate descent, one block at a time."""

from cdgm.coordinates import coordinate_lipschitz as coordinate_lipschitz
from cdgm.coordinates import coordinate_move as coordinate_move
from cdgm.descent import Block as Block
from cdgm.descent import Descent as Descent
from cdgm.descent import DescentState as DescentState
from cdgm.descent import LossFn as LossFn
from cdgm.descent import StepInfo as StepInfo
from cdgm.descent import block_descent as block_descent
from cdgm.drive import Driven as Driven
from cdgm.drive import DrivenState as DrivenState
from cdgm.drive import block_grad_norms as block_grad_norms
from cdgm.drive import drive as drive
from cdgm.dynamics import check_step_size as check_step_size
from cdgm.dynamics import consensus as consensus
from cdgm.dynamics import extragradient as extragradient
from cdgm.dynamics import stability_limit as stability_limit
from cdgm.exact import check_quadratic as check_quadratic
from cdgm.exact import exact_minimisation as exact_minimisation
from cdgm.explain import Explanation as Explanation
from cdgm.explain import explain as explain
from cdgm.moves import Evaluation as Evaluation
from cdgm.moves import Move as Move
from cdgm.moves import gradient_move as gradient_move
from cdgm.proximal import box as box
from cdgm.proximal import elastic_net as elastic_net
from cdgm.proximal import soft_threshold as soft_threshold
from cdgm.reuse import hoisted as hoisted
from cdgm.schedules import Schedule as Schedule
from cdgm.schedules import cyclic as cyclic
from cdgm.schedules import phases as phases
from cdgm.schedules import sequence as sequence
from cdgm.schedules import shuffled as shuffled
from cdgm.schedules import uniform as uniform
from cdgm.selection import Rule as Rule
from cdgm.selection import Seen as Seen
from cdgm.selection import aggressive as aggressive
from cdgm.selection import bandit as bandit
from cdgm.selection import from_schedule as from_schedule
from cdgm.selection import gauss_southwell as gauss_southwell
from cdgm.selection import importance as importance
from cdgm.selection import plateau as plateau
from cdgm.transform import CoordinateDescentState as CoordinateDescentState
from cdgm.transform import coordinate_descent as coordinate_descent

__version__ = '0.1.0'
