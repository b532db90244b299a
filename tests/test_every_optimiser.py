"""Every optimiser of optax and optax.contrib on two blocks, against the rule by hand.

Oracle: stock optax on the block's own subtree, float64, in turn. A public optimiser
that is not in the table is made with defaults or a learning rate, and one
that cannot be made so fails here by its name.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import cdgm

pytestmark = pytest.mark.filterwarnings('ignore:.*is deprecated')

# Combinators and wrappers of what is tested, and those that need another calling.
WRAPPERS = {
    'chain', 'named_chain', 'masked', 'multi_transform', 'partition', 'freeze',
    'selective_transform', 'conditionally_mask', 'conditionally_transform', 'flatten',
    'inject_hyperparams', 'inject_stateful_hyperparams', 'with_extra_args_support',
    'stateless', 'stateless_with_tree_map', 'snapshot', 'measure_with_ema',
    'split_real_and_imaginary',
    'scale_by_muon',  # of matrices alone, which `muon` picks for it
    'lookahead',  # LookaheadParams in place of params: no pytree of blocks
    'dpsgd', 'differentially_private_aggregate',  # per-example: test_transform
}
SPECIAL = {
    'adaptive_grad_clip': lambda: optax.adaptive_grad_clip(0.1),
    'add_noise': lambda: optax.add_noise(0.1, 0.5, 0),
    'noisy_sgd': lambda: optax.noisy_sgd(0.1, key=0),
    'apply_if_finite': lambda: optax.apply_if_finite(optax.adam(0.1), 3),
    'clip': lambda: optax.clip(0.1),
    'clip_by_block_rms': lambda: optax.clip_by_block_rms(0.1),
    'clip_by_global_norm': lambda: optax.clip_by_global_norm(0.1),
    'ema': lambda: optax.ema(0.9),
    'scale': lambda: optax.scale(-0.1),
    'scale_by_learning_rate': lambda: optax.scale_by_learning_rate(0.1),
    'scale_by_backtracking_linesearch':
        lambda: optax.chain(optax.scale(-1.0),
                            optax.scale_by_backtracking_linesearch(5)),
    'scale_by_zoom_linesearch':
        lambda: optax.chain(optax.scale(-1.0), optax.scale_by_zoom_linesearch(5)),
    'scale_by_schedule': lambda: optax.scale_by_schedule(lambda n: -0.1 / (1 + n)),
    'trace': lambda: optax.trace(0.9),
    'mechanize': lambda: contrib.mechanize(optax.sgd(0.1)),
    'reduce_on_plateau': lambda: contrib.reduce_on_plateau(),
    'sam': lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05)),
    'sam opaque': lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05),
                                      opaque_mode=True),
    'schedule_free': lambda: contrib.schedule_free(optax.sgd(0.1), 0.1),
    'sgd nesterov': lambda: optax.sgd(0.1, 0.9, nesterov=True),
    'adamw mask': lambda: optax.adamw(
        0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)),
}


def factories():
    found = {}
    for module in optax, contrib:
        for name, make in vars(module).items():
            if (inspect.isfunction(make) and not make.__name__.startswith('_')
                    and not name.startswith('_') and 'GradientTransformation'
                    in str(inspect.signature(make).return_annotation)):
                found.setdefault(name, make)
    return {k: f for k, f in found.items() if k not in WRAPPERS}


def make(name):
    if name in SPECIAL:
        return SPECIAL[name]()
    factory = factories()[name]
    needed = [p.name for p in inspect.signature(factory).parameters.values()
              if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,
                                                         p.VAR_POSITIONAL)]
    assert needed in ([], ['learning_rate']), f'{name} needs {needed}: give it an entry'
    return factory(*[0.1] * len(needed))


NAMES = sorted(factories().keys() | SPECIAL.keys())
QUICK = {'adam', 'sam', 'sam opaque', 'polyak_sgd', 'sophia', 'sgd nesterov'}
LABELS = {'a': 'a', 'b': 'b'}
PARAMS = {'a': {'w': np.cos(np.arange(6.)).reshape(2, 3), 'b': np.ones(3)},
          'b': {'w': np.sin(1 + np.arange(6.)).reshape(3, 2)}}
ORDER = 'abab'


def loss(params, batch=None, key=None):
    hidden = params['a']['w'] @ params['b']['w']
    return (jnp.sum((hidden - 2) ** 2) + 0.1 * jnp.sum(params['a']['b'] ** 4)
            + 0.1 * jnp.sum(params['b']['w'] ** 4)), None


def context(of, x):
    """Value, gradient and the extras that optax's own examples give."""
    value, grads = jax.value_and_grad(of)(x)
    return grads, dict(value=value, grad=grads, value_fn=of, obj_fn=of,
                       grad_fn=lambda x, *_: jax.grad(of)(x))


def given(name, tx, extra):
    """Spare the line searches what they refuse in stock optax."""
    if isinstance(tx, optax.GradientTransformationExtraArgs):
        if 'sophia' in name or 'hutchinson' in name:
            return extra
        if 'sam' in name:
            return {'grad_fn': extra['grad_fn']}
        return {k: extra[k] for k in ('value', 'grad', 'value_fn')}
    return {}


def by_hand(name):
    txs, params = {k: make(name) for k in LABELS}, PARAMS
    states = {k: tx.init(params[k]) for k, tx in txs.items()}

    def step(params, states, k):
        grads, extra = context(lambda x: loss({**params, k: x})[0], params[k])
        updates, state = txs[k].update(grads, states[k], params[k],
                                       **given(name, txs[k], extra))
        return ({**params, k: optax.apply_updates(params[k], updates)},
                {**states, k: state})

    step = jax.jit(step, static_argnums=2)
    for k in ORDER:
        params, states = step(params, states, k)
    return params


def by_transform(name):
    tx = cdgm.coordinate_descent({k: make(name) for k in LABELS}, LABELS)
    params, state = PARAMS, tx.init(PARAMS)

    def step(params, state, k):
        grads, extra = context(lambda x: loss(x)[0], params)
        updates, state = tx.update(grads, state, params, block=k,
                                   **given(name, make(name), extra))
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, static_argnums=2)
    for k in ORDER:
        params, state = step(params, state, k)
    check_map_params(name, tx, state)
    return params


def check_map_params(name, tx, state):
    """As optax's own rule: it works, or fails with the error that optax has alone."""
    alone = make(name)
    try:
        optax.tree.map_params(alone, lambda x: x, alone.init(PARAMS))
    except Exception as error:  # as line searches do
        with pytest.raises(type(error)):
            optax.tree.map_params(tx, lambda x: x, state)
        return
    mapped = optax.tree.map_params(tx, lambda x: x, state)
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


def by_descent(name):
    descent = cdgm.block_descent({k: cdgm.Block(k, loss, make(name)) for k in LABELS})
    state, step = descent.init(PARAMS), jax.jit(descent.step, static_argnums=3)
    for k in ORDER:
        state, _ = step(state, None, None, k)
    return state.params


def test_every_public_optimiser_can_be_made():
    for name in NAMES:
        assert callable(make(name).update), name


@pytest.mark.parametrize('name', [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES])
@pytest.mark.sample(2)
def test_both_faces_are_the_rule_by_hand_on_its_own_subtree(name):
    # Optax itself promotes ranks in scale_by_distance_over_gradients.
    with jax.enable_x64(True), jax.numpy_rank_promotion('allow'):
        want = by_hand(name)
        for face in by_transform, by_descent:
            for x, y in zip(jax.tree.leaves(face(name)), jax.tree.leaves(want)):
                np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9,
                                           err_msg=face.__name__)
