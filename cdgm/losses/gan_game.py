"""A generative adversarial network as a game: one loss for each of its two blocks.

    discriminator    L_D(d(x), d(g(z))) + penalties(d, x, g(z))
    generator        L_G(d(x), d(g(z)))

What papers leave open is an argument of `gan_game`: what becomes of the points before
the discriminator sees them (instance noise, packing), which noise the players draw, how
often a penalty is computed, what the normalisation of the frozen net does, and whether
the generator is averaged. What has to be remembered of it from step to step is the
model state, and a game that has to remember nothing has none.

Shapes   B batch, Z latent, m packing; logits float[B / m].
Units    those of the loss, averaged over the batch.
Sources  instance noise: Sonderby et al. 2017 (arXiv:1610.04490) section 4; packing: Lin
         et al. 2018 (arXiv:1712.04086) section 3; the average of the generator: Yazici
         et al. 2019 (arXiv:1806.04498) eq. 3, here corrected for its start.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cdgm.losses.critics import relativistic, wasserstein
from cdgm.losses.gan import (
    GanLoss, hinge, least_squares, minimax, non_saturating, smoothed)
from cdgm.losses.inputs import widen
from cdgm.losses.penalties import Penalty
from cdgm.losses.spectral_norm import spectral_norm, spectral_vectors

GAN_LOSSES = {'minimax': minimax, 'non_saturating': non_saturating,
              'least_squares': least_squares, 'hinge': hinge,
              'wasserstein': wasserstein, 'relativistic': relativistic}

Frozen = Literal['batch', 'update', 'running']
FROZEN: tuple[Frozen, ...] = ('batch', 'update', 'running')

# What is drawn of a step's key beside the latents, which take the key as it is.
_PENALTY, _REAL_NOISE, _FAKE_NOISE = 1, 2, 3


class DiscriminatorTerms(NamedTuple):
    """Attributes: mean logits of the real and of the fake images, float32[] each."""

    real_logit: jax.Array
    fake_logit: jax.Array


class GeneratorTerms(NamedTuple):
    """Attributes: mean logit of the fake images, float32[].

    The real logits are not among them: a step of the generator would have to run the
    discriminator on the real images only to report them.
    """

    fake_logit: jax.Array


class GanGame(NamedTuple):
    """What `gan_game` returns: pure functions.

    Attributes:
      losses: {'discriminator': ..., 'generator': ...}, each for the `cdgm.Block` of
        that name: (params, batch, key) -> (float32[], terms), or, if the game is
        stateful, (params, model_state, batch, key) -> (float32[], (terms,
        model_state)).
      stateful: whether there is a model state.
      model_state: (params, key) -> the model state to begin with; params may be of
        shapes and types alone, as of `jax.eval_shape`. None if not stateful.
      averaged: (params, model_state) -> params with the generator's average in its
        place, as soon as there is one.
      logits: (params, model_state, batch, key) -> logits of the real and of as many
        fake examples, float[B / m] each, as a discriminator's step has them.
      sample: (params, model_state, latent, labels=None, average=True) -> examples, by
        the average if there is one, and of nets with a state by their running
        statistics.
    """

    losses: dict[str, Callable[..., Any]]
    stateful: bool
    model_state: Callable[[Any, jax.Array], Any]
    averaged: Callable[[Any, Any], Any]
    logits: Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, jax.Array]]
    sample: Callable[..., jax.Array]


class _Game(NamedTuple):
    """The arguments of `gan_game`, which every function of the game is given."""

    generate: Callable[..., Any]
    discriminate: Callable[..., Any]
    latent_size: int
    loss: GanLoss
    penalties: tuple[Penalty, ...]
    packing: int
    instance_noise: Any
    shared_noise: bool | None
    average: Any
    conditional: bool
    spectral_norm: int
    nets_state: Callable[[jax.Array], Any] | None
    frozen: Frozen

    @property
    def lazy(self) -> bool:
        return any(penalty.every > 1 for penalty in self.penalties)

    @property
    def stateful(self) -> bool:
        return (self.lazy or self.shared_noise is not None or self.average is not None
                or bool(self.spectral_norm) or self.nets_state is not None)


class _Shown(NamedTuple):
    """A step's points as the discriminator is shown them, and how to ask it.

    Attributes:
      real: float[B / m, ...].
      fake: float[B / m, ...].
      ask: (points, nets' state) -> (logits, nets' state).
      nets: the nets' state once the generator has run.
    """

    real: jax.Array
    fake: jax.Array
    ask: Callable[[jax.Array, Any], tuple[jax.Array, Any]]
    nets: Any


def gan_game(
        generate: Callable[..., Any], discriminate: Callable[..., Any],
        latent_size: int, loss: GanLoss, *, penalties: Sequence[Penalty] = (),
        packing: int = 1, label_smoothing: jax.typing.ArrayLike = 0.,
        instance_noise: jax.typing.ArrayLike = 0., shared_noise: bool | None = None,
        average: jax.typing.ArrayLike | None = None, conditional: bool = False,
        spectral_norm: int = 0, clipped: bool = False,
        nets_state: Callable[[jax.Array], Any] | None = None, frozen: Frozen = 'batch'
        ) -> GanGame:
    """Make the losses of the two blocks.

    The params are {'discriminator': ..., 'generator': ...}; the nets are given all of
    it. There is no stop_gradient: block descent differentiates the active block only.

    Args:
      generate: (params, latent float[B, Z]) -> examples. With a state of the nets
        (params, nets, latent, train=...) -> (examples, nets).
      discriminate: (params, examples) -> logits, float[B / m]; with a state of the nets
        (params, nets, examples, train=...) -> (logits, nets).
      latent_size: Z; z ~ N(0, I).
      loss: such as `non_saturating`, of `GAN_LOSSES`.
      penalties: of `r1`, `r2`, `gradient_penalty`; at the points that the discriminator
        is shown. One with every > 1 counts the discriminator's steps.
      packing: m; the discriminator is shown m examples at once, concatenated along
        their last axis, so it has m times as many columns or channels to read.
      label_smoothing: see `smoothed`.
      instance_noise: standard deviation of what is added to real and fake points alike
        before the discriminator sees them; may be traced.
      shared_noise: which latents a step draws. None: those of the key that it is given.
        True: the generator's steps draw those of the discriminator's last step,
        whatever the minibatch. False: each step draws afresh, even if it is given the
        key of another.
      average: decay of the generator's exponential moving average, which takes in its
        parameters before each of its own steps; None for no average.
      conditional: the batch is (examples, labels int[B]), and both nets are given the
        labels as their last positional argument; fakes are of the minibatch's labels.
      spectral_norm: power iterations a step with which the discriminator's kernels are
        normalised; 0 for none. The vectors move on in its own steps only.
      clipped: whether the discriminator's tx ends in `weight_clipping`. This changes
        nothing but what is warned of.
      nets_state: key -> {'discriminator': ..., 'generator': ...}, the nets' own state,
        such as batch statistics.
      frozen: what the normalisation of the net that does not move does: 'batch', it
        takes the minibatch's statistics and forgets them; 'update', it keeps them;
        'running', it is called with train=False.

    Raises:
      ValueError: an argument is out of range, or the loss has no labels to smooth;
        while tracing, if packing does not divide the batch, generated examples are of
        another shape than the data, or there are no labels.

    Warns:
      UserWarning: what `unsuited` says.
    """
    penalties = tuple(penalties)
    _check(packing, spectral_norm, penalties, conditional, frozen)
    for line in unsuited(loss, penalties, spectral_norm=spectral_norm, clipped=clipped):
        warnings.warn(line, stacklevel=2)
    if _given(label_smoothing):
        loss = smoothed(loss, label_smoothing)
    game = _Game(generate, discriminate, latent_size, loss, penalties, packing,
                 instance_noise, shared_noise, average, conditional, spectral_norm,
                 nets_state, frozen)
    return GanGame(
        {'discriminator': _block_loss(game, _discriminator),
         'generator': _block_loss(game, _generator)},
        game.stateful, lambda params, key: _model_state(game, params, key),
        lambda params, state: _averaged(game, params, state),
        lambda params, state, batch, key: _logits(game, params, state or {}, batch,
                                                  key),
        lambda params, state, latent, labels=None, average=True: _sample(
            game, params, state, latent, labels, average))


def unsuited(loss: GanLoss, penalties: Sequence[Penalty] = (), *,
             spectral_norm: int = 0, clipped: bool = False) -> list[str]:
    """Say which settings do not go with the loss, a line each.

    >>> unsuited(wasserstein)[0][:60]
    'nothing keeps the Wasserstein critic Lipschitz, and its loss'
    >>> unsuited(wasserstein, clipped=True)
    []
    """
    lines = []
    if loss is wasserstein and not (penalties or spectral_norm or clipped):
        lines.append('nothing keeps the Wasserstein critic Lipschitz, and its loss has '
                     'no minimum; add a gradient penalty, spectral normalisation or '
                     'weight clipping.')
    if loss is not wasserstein and any(
            penalty.name == 'gradient_penalty' for penalty in penalties):
        lines.append('the gradient penalty asks for slopes of length one, which only '
                     'the Wasserstein loss has at its optimum; take r1 or r2, which '
                     'ask for none.')
    if loss is not wasserstein and clipped:
        lines.append('clipping makes a critic Lipschitz for the Wasserstein loss, and '
                     'only bounds the logits of this one; take r1, r2 or spectral '
                     'normalisation.')
    return lines


def check_output_range(examples: Any, low: float, high: float) -> None:
    """See that data are where the generator can put its examples.

    Args:
      examples: float[N, ...]; not to be traced.
      low: least value that the generator makes.
      high: largest.

    Raises:
      ValueError: an example is outside.

    >>> check_output_range(jnp.array([0., 1.]), 0, 1)
    """
    seen = float(jnp.min(examples)), float(jnp.max(examples))
    if not low <= seen[0] <= seen[1] <= high:
        raise ValueError(
            f'the data reach from {seen[0]:g} to {seen[1]:g}, and the generator makes '
            f'numbers from {low:g} to {high:g}; scale the data so.')


def discriminator_loss(
        params: Any, batch: jax.Array, key: jax.Array, *,
        generate: Callable[[Any, jax.Array], jax.Array],
        discriminate: Callable[[Any, jax.Array], jax.Array], latent_size: int,
        loss: GanLoss) -> tuple[jax.Array, DiscriminatorTerms]:
    """What the discriminator minimises; bind the keywords with `functools.partial`.

    It is that of the plainest `gan_game`. There is no stop_gradient: block descent
    differentiates the discriminator only, and the generator then runs forward alone.
    Whoever differentiates all of the parameters gets the generator's gradient of this
    loss as well, and must not apply it.

    Args:
      params: {'discriminator': ..., 'generator': ...}; generate and discriminate are
        given all of it.
      batch: float32[B, ...], real images.
      key: PRNG key of the latents, z ~ N(0, I), float32[B, Z].
      generate: (params, latent) -> images.
      discriminate: (params, images) -> logits, float32[B].
      latent_size: Z.
      loss: such as `non_saturating`.

    Returns:
      (float32[], DiscriminatorTerms), averaged over the batch.
    """
    return _plainest(generate, discriminate, latent_size, loss)['discriminator'](
        params, batch, key)


def generator_loss(
        params: Any, batch: jax.Array, key: jax.Array, *,
        generate: Callable[[Any, jax.Array], jax.Array],
        discriminate: Callable[[Any, jax.Array], jax.Array], latent_size: int,
        loss: GanLoss) -> tuple[jax.Array, GeneratorTerms]:
    """What the generator minimises; arguments as `discriminator_loss` takes them.

    Where the value does not depend on the real images, as with all losses but the
    relativistic one, a compiled step does not run the discriminator on them.

    Returns:
      (float32[], GeneratorTerms), averaged over the batch.
    """
    return _plainest(generate, discriminate, latent_size, loss)['generator'](
        params, batch, key)


def _plainest(generate, discriminate, latent_size, loss):
    # The caller's tx may clip, so there is nothing to warn of.
    return gan_game(generate, discriminate, latent_size, loss,
                    clipped=loss is wasserstein).losses


def _block_loss(game: _Game, player: Callable[..., Any]) -> Callable[..., Any]:
    """What a `cdgm.Block` takes, with a model state or without."""
    if game.stateful:
        return lambda params, state, batch, key: player(game, params, state, batch, key)

    def stateless(params, batch, key):
        value, (terms, _) = player(game, params, {}, batch, key)
        return value, terms

    return stateless


def _discriminator(game: _Game, params, state: Mapping[str, Any], batch, key):
    """The discriminator's loss, (float[], (terms, state))."""
    shown, state = _show(game, params, state, batch, key, _own_key(game, state, key),
                         'generator')
    real_logits, fake_logits, nets = _ask_both(shown)
    value = game.loss.discriminator(real_logits, fake_logits)

    def discriminate(points):
        return shown.ask(points, nets)[0]

    for index, penalty in enumerate(game.penalties):
        own = jax.random.fold_in(jax.random.fold_in(key, _PENALTY), index)
        value += _penalise(penalty, discriminate, shown, own,
                           state.get('discriminator_steps'))
    if game.lazy:
        state = {**state, 'discriminator_steps': state['discriminator_steps'] + 1}
    if game.shared_noise:
        state = {**state, 'noise_key': _key_data(key)}
    terms = DiscriminatorTerms(jnp.mean(widen(real_logits)),
                               jnp.mean(widen(fake_logits)))
    return value, (terms, _remember(game, state, nets, 'generator'))


def _generator(game: _Game, params, state: Mapping[str, Any], batch, key):
    """The generator's loss, (float[], (terms, state))."""
    latent_key = _like_key(state['noise_key'], key) if game.shared_noise else (
        _own_key(game, state, key))
    shown, moved = _show(game, params, state, batch, key, latent_key, 'discriminator')
    real_logits, fake_logits, nets = _ask_both(shown)
    value = game.loss.generator(real_logits, fake_logits)
    # Power iteration goes on where the discriminator's own steps left it.
    state = {**moved, **({'spectral': state['spectral']} if game.spectral_norm else {})}
    if game.average is not None:
        now = jax.lax.stop_gradient(params['generator'])
        state = {**state, 'average': jax.tree.map(
                     lambda m, x: game.average * m + (1 - game.average) * x,
                     state['average'], now),
                 'weight': game.average * state['weight'] + (1 - game.average)}
    return value, (GeneratorTerms(jnp.mean(widen(fake_logits))),
                   _remember(game, state, nets, 'discriminator'))


def _logits(game: _Game, params, state: Mapping[str, Any], batch, key):
    """Logits of a minibatch and of as many fakes."""
    shown, _ = _show(game, params, state, batch, key, _own_key(game, state, key),
                     'generator')
    real_logits, fake_logits, _ = _ask_both(shown)
    return real_logits, fake_logits


def _ask_both(shown: _Shown) -> tuple[jax.Array, jax.Array, Any]:
    """Logits of the real and of the fake points, and the nets' state after both."""
    # Two calls, not one on both batches: the real one can be dropped when unused.
    real_logits, nets = shown.ask(shown.real, shown.nets)
    fake_logits, nets = shown.ask(shown.fake, nets)
    return real_logits, fake_logits, nets


def _show(game: _Game, params, state, batch, key, latent_key, frozen: str
          ) -> tuple[_Shown, dict[str, Any]]:
    """Make fakes, and bring both kinds of points into the form that they are shown in.

    Returns:
      Points and discriminator, and the state with its counters and vectors moved on.
    """
    real, labels = _split(game, batch)
    if len(real) % game.packing:
        raise ValueError(f'a batch of {len(real)} does not divide into packs of '
                         f'{game.packing}; give a batch that is a multiple.')
    if game.spectral_norm:
        divided, vectors = spectral_norm(params['discriminator'], state['spectral'],
                                         game.spectral_norm)
        params, state = ({**params, 'discriminator': divided},
                         {**state, 'spectral': vectors})
    if game.shared_noise is False:
        state = {**state, 'steps': state['steps'] + 1}
    latent = jax.random.normal(latent_key, (len(real), game.latent_size), real.dtype)
    fake, nets = _call(game, game.generate, params, state.get('nets'), latent, labels,
                       train=game.frozen != 'running' or frozen != 'generator')
    if fake.shape != real.shape:
        raise ValueError(f'the generator makes examples of shape {fake.shape[1:]} and '
                         f'the data are {real.shape[1:]}; give it that shape.')
    real = _pack(_noisy(game, real, key, _REAL_NOISE), game.packing)
    fake = _pack(_noisy(game, fake, key, _FAKE_NOISE), game.packing)
    train = game.frozen != 'running' or frozen != 'discriminator'
    return _Shown(real, fake, lambda points, nets: _call(
        game, game.discriminate, params, nets, points, labels, train=train),
        nets), state


def _call(game: _Game, net, params, nets, x, labels, *, train: bool):
    """Run a net, (out, nets' state)."""
    given = (x, labels) if game.conditional else (x,)
    if game.nets_state is None:
        return net(params, *given), nets
    return net(params, nets, *given, train=train)


def _split(game: _Game, batch) -> tuple[jax.Array, Any]:
    """Examples and labels of a minibatch."""
    if not game.conditional:
        return batch, None
    if not isinstance(batch, tuple | list) or len(batch) != 2 or batch[1] is None:
        raise ValueError('the nets are told labels, and the batch holds none; give '
                         '(examples, labels), or conditional=False.')
    return batch[0], batch[1]


def _own_key(game: _Game, state, key):
    """Key of a step's own latents."""
    if game.shared_noise is False:
        return jax.random.fold_in(key, state['steps'])
    return key


def _key_data(key):
    """The bits of a key: a model state of plain arrays can be saved by anybody."""
    return jax.random.key_data(key) if _is_typed(key) else key


def _like_key(data, key):
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key)) if (
        _is_typed(key)) else data


def _is_typed(key) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def _noisy(game: _Game, points, key, which: int):
    if not _given(game.instance_noise):
        return points
    key = jax.random.fold_in(key, which)
    noise = jax.random.normal(key, points.shape, points.dtype)
    return points + game.instance_noise * noise


def _pack(points, size: int):
    """Concatenate `size` examples in a row along their last axis."""
    if size == 1:
        return points
    packs = points.reshape(-1, size, *points.shape[1:])
    return jnp.concatenate([packs[:, index] for index in range(size)], axis=-1)


def _penalise(penalty: Penalty, discriminate, shown: _Shown, key, steps):
    """The penalty of a step, weighed."""
    def value():
        return penalty.value(discriminate, shown.real, shown.fake, key)

    if penalty.every == 1:
        return penalty.weight * value()
    due = steps % penalty.every == 0
    form = jax.eval_shape(value)
    # Of runs side by side all are due at once, and the conditional stays one.
    lazy = jax.lax.cond(_any(due), value, lambda: jnp.zeros(form.shape, form.dtype))
    return penalty.every * penalty.weight * jnp.where(due, lazy, 0)


@jax.custom_batching.custom_vmap
def _any(flag: jax.Array) -> jax.Array:
    """Return whether a flag is set; under `vmap` whether any is, and not batched."""
    return flag


@_any.def_vmap
def _any_of_batch(axis_size, in_batched, flags):
    del axis_size
    return (_any(flags.any(axis=0)) if in_batched[0] else flags), False


def _remember(game: _Game, state, nets, frozen: str):
    """Put the nets' state into the model state, of the frozen net as is asked for."""
    if game.nets_state is None:
        return state
    if game.frozen != 'update':
        nets = {**nets, frozen: state['nets'][frozen]}
    return {**state, 'nets': nets}


def _model_state(game: _Game, params, key: jax.Array) -> Any:
    if not game.stateful:
        return None
    state: dict[str, Any] = {}
    if game.lazy:
        state['discriminator_steps'] = jnp.zeros((), jnp.int32)
    if game.shared_noise is not None:
        state |= {'noise_key': _key_data(key)} if game.shared_noise else {
            'steps': jnp.zeros((), jnp.int32)}
    if game.average is not None:
        state['average'] = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                                        params['generator'])
        state['weight'] = jnp.zeros(())
    if game.spectral_norm:
        state['spectral'] = spectral_vectors(params['discriminator'], key)
    if game.nets_state is not None:
        state['nets'] = game.nets_state(key)
    return state


def _averaged(game: _Game, params, state):
    if game.average is None:
        return params
    begun = state['weight'] > 0
    weight = jnp.where(begun, state['weight'], 1)
    return {**params, 'generator': jax.tree.map(
        lambda m, x: jnp.where(begun, m / weight, x), state['average'],
        params['generator'])}


def _sample(game: _Game, params, state, latent, labels, average: bool):
    nets = (state or {}).get('nets')
    if average:
        params = _averaged(game, params, state)
    return _call(game, game.generate, params, nets, latent, labels, train=False)[0]


def _given(amount) -> bool:
    """Return whether something is asked for: a traced amount is."""
    return isinstance(amount, jax.core.Tracer) or bool(amount)


def _check(packing: int, iterations: int, penalties: tuple[Penalty, ...],
           conditional: bool, frozen: str) -> None:
    if packing < 1:
        raise ValueError(f'packing is {packing}; give a whole number > 0.')
    if iterations < 0:
        raise ValueError(f'spectral_norm is {iterations}; give a number of power '
                         'iterations, or 0 for none.')
    if frozen not in FROZEN:
        raise ValueError(f'frozen is {frozen!r}; give one of {", ".join(FROZEN)}.')
    if conditional and packing > 1:
        raise ValueError(f'the examples of a pack of {packing} have labels of their '
                         'own, and a discriminator is told one; give packing=1, or '
                         'conditional=False.')
