"""Game dynamics: how blocks with losses of their own move together.

With v(w) = (dL_1/dw_1, ..., dL_B/dw_B), the gradient field of the game, and step h:

    simultaneous       w+ = w - h v(w)                       descent.simultaneous
    alternating, k : 1 one block after another               descent.cycle(..., order)
    two time scales    a step h_b for each block             the blocks' txs
    optimistic         w+ = w - h (2 v(w) - v(w before))     optax.optimistic_gradient_
                                                             descent(h)
    negative momentum  w+ = w - h m, m = v(w) + beta m       optax.sgd(h, momentum=beta)
    extragradient      w+ = w - h v(w - h v(w))              `extragradient(descent)`
    consensus          w+ = w - h (v(w) + gamma J(w)' v(w))  `consensus(descent, gamma)`

with J the Jacobian of v, so that J' v is the gradient of |v|^2 / 2. The first three are
ways to call a `Descent`. Optimism and momentum are memories of a tx, which optax has:
`optax.chain(optax.scale_by_optimistic_gradient(), tx)` makes any tx optimistic. The
last two are here, over a `Descent` with any tx or move; like it they call no `jit`.

Sources  Korpelevich 1976; Mescheder et al. 2017 (arXiv:1705.10461) eq. 11 (consensus);
         Gidel et al. 2019 (arXiv:1802.10551) algorithm 1, (arXiv:1807.04740) theorem 6
         (negative momentum, alternating); Daskalakis et al. 2018 (arXiv:1711.00141).
         The stability limits are derived in `stability_limit`.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import jaxpr_as_fun
from jax.typing import ArrayLike

from cdgm import blocks as trees
from cdgm.descent import (
    Descent, DescentState, LossFn, StepInfo, block_descent, call_loss)

# (state, batch, key) -> (state, StepInfo[B]), as `Descent.simultaneous`.
GameStep = Callable[[DescentState, Any, jax.Array], tuple[DescentState, StepInfo]]


def extragradient(descent: Descent) -> GameStep:
    """Step from where the blocks are along the gradient at where they would be next.

    The point ahead is that of a simultaneous step with the same minibatch and key; the
    state that the txs had there is dropped, so their counts and moments see one
    gradient a step. A move that is no gradient step is handed its objective with the
    origin shifted to the point ahead.

    Args:
      descent: its txs are taken as they are.

    Returns:
      A step: (state, batch, key) -> (state, StepInfo[B]). Losses, auxiliaries and
      gradient norms are those before the step, not those ahead.

    >>> from cdgm import Block, block_descent
    >>> def loss(params, batch, key):
    ...     return params['x'] * params['y'], None
    >>> def opposed(params, batch, key):
    ...     return -params['x'] * params['y'], None
    >>> descent = block_descent({'x': Block('x', loss, optax.sgd(0.5)),
    ...                          'y': Block('y', opposed, optax.sgd(0.5))})
    >>> state = descent.init({'x': jnp.array(1.0), 'y': jnp.array(1.0)})
    >>> state, infos = extragradient(descent)(state, None, jax.random.key(0))
    >>> float(state.params['x']), float(state.params['y'])
    (0.25, 1.25)
    """
    def step(state, batch, key):
        ahead, infos = descent.simultaneous(state, batch, key)
        shift = jax.tree.map(jnp.subtract, ahead.params, state.params)
        shifted = block_descent({name: block._replace(loss=_shifted(block.loss, shift))
                                 for name, block in descent.blocks.items()})
        state, _ = shifted.simultaneous(state, batch, key)
        return state, infos

    return step


def _shifted(loss: LossFn, shift) -> LossFn:
    """The loss as a function of parameters that are `shift` short of its own."""
    return lambda params, *rest: loss(jax.tree.map(jnp.add, params, shift), *rest)


def consensus(descent: Descent, strength: ArrayLike) -> GameStep:
    """Step down each block's loss and, together, down the field's squared length.

    Every block's loss gains strength / 2 * |v|^2, whose gradient is strength * J' v.

    Args:
      descent: its txs are taken as they are.
      strength: gamma >= 0, may be traced.

    Returns:
      A step: (state, batch, key) -> (state, StepInfo[B]). The reported losses include
      the penalty, and the gradient norms its gradient. Of a model state the field is
      that of the start, for all blocks alike.
    """
    def step(state, batch, key):
        losses = _traced_losses(descent, state, batch, key)

        def length(params):
            return _squared_length(descent, losses, params, state.model_state)

        def penalised(name, block):
            def total(params, *rest):
                model_state = rest[0] if state.model_state is not None else None
                value, (aux, changed) = losses[name](params, model_state)
                value = value + strength / 2 * length(params)
                return value, (aux if model_state is None else (aux, changed))

            return block._replace(loss=total, batch=None)

        return block_descent({
            name: penalised(name, block) for name, block in descent.blocks.items()
        }).simultaneous(state, batch, key)

    return step


def _traced_losses(descent: Descent, state: DescentState, batch, key
                   ) -> dict[str, Callable[..., tuple[jax.Array, tuple[Any, Any]]]]:
    """Each block's loss as the program that it is: (params, model_state) -> ….

    The field's length is made of all losses, and every block differentiates it; a loss
    that is called as it stands would be traced anew each time, B^2 + B times in all.
    Blocks of one loss share one program.
    """
    traced: dict[Any, Callable[..., Any]] = {}
    losses = {}
    for name, block in descent.blocks.items():
        kind = id(block.loss), id(block.batch)
        if kind not in traced:
            traced[kind] = _traced(
                lambda params, model_state, name=name, block=block: call_loss(
                    name, block, params, model_state, batch, key),
                state.params, state.model_state)
        losses[name] = traced[kind]
    return losses


def _traced(function, *arguments):
    """Trace a function once; what is returned runs its program on such arguments."""
    program, form = jax.make_jaxpr(function, return_shape=True)(*arguments)
    run, structure = jaxpr_as_fun(program), jax.tree.structure(form)
    return lambda *args: jax.tree.unflatten(structure, run(*jax.tree.leaves(args)))


def _squared_length(descent: Descent, losses, params, model_state) -> jax.Array:
    """|v|^2: every block's gradient of its own loss, summed over all entries."""
    _, gradients = _field(descent, losses, params, model_state)
    return optax.tree.norm(list(gradients.values()), squared=True)


def gradient_field(descent: Descent, state: DescentState, batch: Any, key: jax.Array
                   ) -> Callable[[Any], tuple[dict[str, jax.Array], dict[str, Any]]]:
    """The game's v on a minibatch: what each block would descend, at any parameters.

    Args:
      descent: its txs are not used.
      state: its model state is that of all losses; its parameters only say the form.
      batch, key: as a step is given them.

    Returns:
      params -> ({block: its loss, float[]}, {block: the loss's gradient with respect to
      the block, a tree with `optax.MaskedNode()` for every other block's leaf}).

    >>> from cdgm import Block, block_descent
    >>> def loss(sign):
    ...     return lambda params, batch, key: (sign * params['x'] * params['y'], None)
    >>> descent = block_descent({'x': Block('x', loss(1), optax.sgd(1.0)),
    ...                          'y': Block('y', loss(-1), optax.sgd(1.0))})
    >>> params = {'x': jnp.array(2.), 'y': jnp.array(3.)}
    >>> field = gradient_field(descent, descent.init(params), None, jax.random.key(0))
    >>> values, gradients = field(params)
    >>> float(values['y']), float(gradients['x']['x']), float(gradients['y']['y'])
    (-6.0, 3.0, -2.0)
    """
    losses = _traced_losses(descent, state, batch, key)
    return lambda params: _field(descent, losses, params, state.model_state)


def _field(descent: Descent, losses, params, model_state):
    labels = trees.label(params, {n: b.leaves for n, b in descent.blocks.items()})

    def value_and_gradient(name):
        active, frozen = trees.split(params, labels, name)
        return jax.value_and_grad(lambda active: losses[name](
            trees.merge(active, frozen), model_state)[0])(active)

    found = {name: value_and_gradient(name) for name in descent.blocks}
    return ({name: value for name, (value, _) in found.items()},
            {name: gradient for name, (_, gradient) in found.items()})


def stability_limit(dynamic: str, interaction: float, *, curvature: float = 0.,
                    strength: float = 0., momentum: float = -0.5) -> float:
    """The step size at which gradient steps stop converging to a game's equilibrium.

    The game is min_x max_y mu/2 x^2 + a x y - mu/2 y^2, to which a smooth two-player
    game with equal curvatures is equal near its equilibrium (for the Dirac-GAN a = 1/2,
    mu = 0). Its simultaneous Jacobian has the eigenvalues z = mu ± i a. Step sizes
    below the limit converge. Two cases are special when mu = 0: simultaneous never
    converges (limit 0), and alternating is bounded below the limit without converging.

    Args:
      dynamic: 'simultaneous': |1 - h z| < 1; 'alternating': trace and determinant of
        its matrix, (2 - h mu)^2 > h^2 a^2; 'extragradient': |1 - h z + h^2 z^2| < 1;
        'optimistic': |l| < 1 for l^2 - (1 - 2 h z) l - h z = 0; 'consensus':
        simultaneous with z + gamma |z|^2 in place of z; 'negative momentum':
        alternating with beta < 0 on the first player, |l| < 1 for
        (l - 1)^2 (l - beta) + h^2 a^2 l^2 = 0.
      interaction: a > 0.
      curvature: mu >= 0; of the first two and of consensus only.
      strength: gamma of consensus.
      momentum: beta of negative momentum, -1 < beta < 0.

    Returns:
      The largest stable step size, exclusive.

    Raises:
      ValueError: no limit is known for the dynamic, or for it with a curvature.

    >>> stability_limit('alternating', 0.5)
    4.0
    >>> stability_limit('simultaneous', 3.0, curvature=1.0)  # 2 mu / L^2
    0.2
    """
    if curvature and dynamic in ('extragradient', 'optimistic', 'negative momentum'):
        raise ValueError(f'no stability limit is known for {dynamic!r} with curvature '
                         f'{curvature}; leave the curvature out.')
    if dynamic == 'consensus':
        curvature += strength * (curvature ** 2 + interaction ** 2)
    match dynamic:
        case 'simultaneous' | 'consensus':
            return 2 * curvature / (curvature ** 2 + interaction ** 2)
        case 'alternating':
            return 2 / (curvature + interaction)
        case 'extragradient':
            return 1 / interaction
        case 'optimistic':
            return 1 / (math.sqrt(3) * interaction)
        case 'negative momentum':
            return 2 * math.sqrt(1 + momentum) / interaction
    raise ValueError(f'no stability limit is known for {dynamic!r}; dynamics are '
                     'simultaneous, alternating, extragradient, optimistic, consensus '
                     'and negative momentum.')


def check_step_size(dynamic: str, step_size: float, interaction: float,
                    **constants: float) -> None:
    """Warn if a step size is not below the stability limit of a dynamic.

    Args:
      dynamic, interaction, constants: as `stability_limit` takes them.
      step_size: h > 0 of plain gradient steps.

    Raises:
      ValueError: no limit is known.
    """
    limit = stability_limit(dynamic, interaction, **constants)
    if step_size >= limit:
        remedy = (f'take less than {limit:.6g}' if limit else
                  'no step size converges; take another dynamic')
        warnings.warn(f'step size {step_size:g} is not below the stability limit '
                      f'{limit:.6g} of {dynamic} dynamics at interaction '
                      f'{interaction:g}; {remedy}.', stacklevel=2)
