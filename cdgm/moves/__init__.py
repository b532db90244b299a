"""Moves: how a block goes from one point to the next, given its objective."""

from cdgm.moves.coordinate import coordinate_lipschitz as coordinate_lipschitz
from cdgm.moves.coordinate import coordinate_move as coordinate_move
from cdgm.moves.exact import check_quadratic as check_quadratic
from cdgm.moves.exact import exact_minimisation as exact_minimisation
from cdgm.moves.least_squares import LinearFit as LinearFit
from cdgm.moves.least_squares import layer_inputs as layer_inputs
from cdgm.moves.least_squares import least_squares as least_squares
from cdgm.gradient_move import Evaluation as Evaluation
from cdgm.gradient_move import Move as Move
from cdgm.gradient_move import gradient_move as gradient_move
from cdgm.moves.log_scale import log_det_minimisation as log_det_minimisation
from cdgm.moves.log_scale import log_scale_minimisation as log_scale_minimisation
from cdgm.moves.proximal import box as box
from cdgm.moves.proximal import elastic_net as elastic_net
from cdgm.moves.proximal import soft_threshold as soft_threshold
