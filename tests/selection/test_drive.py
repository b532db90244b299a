"""The driver against descent by hand and NumPy; what a step costs; one choice for S."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cdgm
from cdgm import selection
from cdgm.selection._drive import block_grad_norms, drive

KEY = jax.random.key(5)
RNG = np.random.default_rng(8)
FACTOR = RNG.normal(size=(3, 3)) * [0.5, 1.0, 3.0]
A, B = FACTOR.T @ FACTOR + 0.1 * np.eye(3), RNG.normal(size=3)
NAMES = ('x', 'y', 'z')


def quadratic(params, batch, key):
    x = jnp.stack([params[name] for name in NAMES])
    return x @ A @ x / 2 - B @ x + 0 * jnp.sum(batch), None


def exact_steps(loss=quadratic):
    """Each coordinate a block with the step 1 / A_ii."""
    return cdgm.block_descent({name: cdgm.Block(name, loss, optax.sgd(1 / A[i, i]))
                               for i, name in enumerate(NAMES)})


def origin():
    return {name: jnp.zeros(()) for name in NAMES}


# What LLVM makes of a program matters to no test, and compiling is most of the time.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
quick_jit = partial(jax.jit, compiler_options=QUICK)


@partial(quick_jit, static_argnums=0)
def step(driven, state, batch=0.0, key=KEY, signal=np.nan):
    return driven.step(state, batch, key, signal)


def loop(driven, state, steps, **data):
    """Drive step by step: (state, int[T] blocks, or int[T, S])."""
    blocks = []
    for _ in range(steps):
        state, info = step(driven, state, **data)
        blocks.append(info.block)
    return state, np.array(blocks)


def copies(tree, seeds):
    return jax.tree.map(lambda x: jnp.stack([x] * seeds), tree)


RULES = {
    'schedule': cdgm.cyclic((2, 1, 1)),
    'gauss_southwell': selection.gauss_southwell(3, refresh=4),
    'gsl': selection.gauss_southwell(3, refresh=3, lipschitz='estimated'),
    'importance': selection.importance(3, KEY, refresh=3),
    'bandit': selection.bandit((1.0, 1.0, 2.0), KEY, floor=0.1, refresh=2),
    'plateau': selection.plateau(3, patience=1, threshold=1e-3, max_steps=4),
    'aggressive': selection.aggressive(3, 0, 2, window=2, max_inner=5),
}
every_rule = pytest.mark.parametrize('name', RULES)


# One way to drive training.

def test_a_driven_schedule_is_descent_by_hand():
    descent, order = exact_steps(), (0, 2, 2, 1)
    driven = drive(descent, cdgm.sequence(order, 3))
    state, hand = driven.init(origin()), descent.init(origin())
    by_hand = quick_jit(descent.step)
    for index in (*order, 0):
        state, info = step(driven, state)
        hand, expected = by_hand(hand, 0.0, KEY, jnp.array(index))
        chex.assert_trees_all_equal(info, expected)
    chex.assert_trees_all_equal(state.descent, hand)
    assert int(state.rule) == 5


DRIVEN = {name: drive(exact_steps(), rule) for name, rule in RULES.items()}


@every_rule
@pytest.mark.sample(3)
def test_a_driven_descent_resumes_exactly(name):
    n, driven = 6, DRIVEN[name]

    def go(state, start, stop):
        for t in range(start, stop):
            # A signal that falls at step 9 ends the aggressive phase.
            signal = {4: 1.0, 9: 0.5}.get(t, np.nan)
            state, _ = step(driven, state, 0.0, jax.random.fold_in(KEY, t), signal)
        return state

    straight = go(driven.init(origin()), 0, 2 * n + 3)
    state = go(driven.init(origin()), 0, n + 1)
    saved = [np.array(leaf) for leaf in jax.device_get(jax.tree.leaves(state))]
    state = jax.tree.unflatten(jax.tree.structure(state), jax.device_put(saved))
    chex.assert_trees_all_equal(go(state, n + 1, 2 * n + 3), straight)
    if name == 'aggressive':
        assert not straight.rule.active


@pytest.mark.parametrize('name', ['gsl', 'importance', 'bandit'])
@pytest.mark.sample(1)
def test_eight_equal_seeds_are_eight_copies_of_one(name):
    steps, seeds, one = 8, 8, DRIVEN[name]
    alone, blocks = loop(one, one.init(origin()), steps)
    many = drive(exact_steps(), RULES[name], seeds=True)
    state, chosen = loop(many, many.init(copies(origin(), seeds)), steps,
                         key=copies(KEY, seeds))
    np.testing.assert_array_equal(chosen, np.stack([blocks] * seeds, axis=1))
    chex.assert_trees_all_close(state.descent, copies(alone.descent, seeds), rtol=1e-12)
    chex.assert_trees_all_close(state.rule, alone.rule, rtol=1e-9)


def test_a_scan_is_a_loop():
    steps, driven = 6, DRIVEN['gsl']
    looped, blocks = loop(driven, driven.init(origin()), steps)
    scanned, infos = quick_jit(lambda state: jax.lax.scan(
        lambda state, _: driven.step(state, 0.0, KEY), state, length=steps))(
            driven.init(origin()))
    np.testing.assert_array_equal(infos.block, blocks)
    chex.assert_trees_all_close(scanned, looped, rtol=1e-12)


@every_rule
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_a_step_keeps_the_types_of_the_state(name, dtype):
    driven = DRIVEN[name]
    state = driven.init(jax.tree.map(lambda x: x.astype(dtype), origin()))
    after, _ = jax.eval_shape(driven.step, state, 0.0, KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


def test_extra_arguments_reach_the_block_and_are_shared_by_the_seeds():
    scale = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda grads, state, params=None, *, rate, **extra:
        (optax.tree.scale(-rate, grads), state))
    descent = cdgm.block_descent({'all': cdgm.Block('', quadratic, scale)})
    driven = drive(descent, cdgm.cyclic((1,)), seeds=True)
    params = {name: jnp.zeros(2) for name in NAMES}
    state, _ = quick_jit(driven.step)(driven.init(params), 0.0,
                                      jax.random.split(KEY, 2), rate=0.5)
    moved = np.stack([state.descent.params[name] for name in NAMES])
    np.testing.assert_allclose(moved, np.stack([B, B], axis=1) / 2, rtol=1e-14)


# What the rules see.

def always_first(rule):
    """A rule that measures what it would, and moves block 0."""
    return rule._replace(select=lambda state, grad_norms: (
        jnp.array(0), rule.select(state, grad_norms)[1]))


@pytest.mark.parametrize('lipschitz', [None, np.diag(A)])
def test_gauss_southwell_with_exact_steps_is_numpy(lipschitz):
    rule = selection.gauss_southwell(3, refresh=1, lipschitz=lipschitz)
    driven = drive(exact_steps(), rule)
    state, chosen = loop(driven, driven.init(origin()), 12)
    x, blocks = np.zeros(3), []
    for _ in range(12):
        gradient = A @ x - B
        scores = gradient ** 2 / (1 if lipschitz is None else lipschitz)
        i = int(np.argmax(scores))
        x[i] -= gradient[i] / A[i, i]
        blocks.append(i)
    assert chosen.tolist() == blocks
    np.testing.assert_allclose([state.descent.params[n] for n in NAMES], x, rtol=1e-12)


def test_secants_of_scalar_blocks_are_the_diagonal():
    driven = drive(exact_steps(), selection.importance(3, KEY, refresh=1))
    state, _ = loop(driven, driven.init(origin()), 200)  # long at rest by then
    np.testing.assert_allclose(state.rule.lipschitz, np.diag(A), rtol=1e-4)


def test_the_secant_of_a_wide_block_is_the_curvature_along_its_move():
    def loss(params, batch, key):
        x = jnp.append(params['wide'], params['last'])
        return x @ A @ x / 2 - B @ x, None

    descent = cdgm.block_descent({name: cdgm.Block(name, loss, optax.sgd(0.1))
                                  for name in ('wide', 'last')})
    params = {'wide': jnp.array([0.3, -0.2]), 'last': jnp.ones(1)}
    rule = selection.gauss_southwell(2, refresh=1, lipschitz='estimated')
    driven = drive(descent, always_first(rule))
    state, _ = step(driven, driven.init(params))
    gradient = (A @ [0.3, -0.2, 1.0] - B)[:2]
    expected = (np.linalg.norm(A[:2, :2] @ gradient) / np.linalg.norm(gradient))
    np.testing.assert_allclose(state.rule.lipschitz, [expected, np.inf], rtol=1e-10)


def test_the_gain_of_an_exact_step_is_the_closed_form():
    rule = selection.bandit((1.0, 1.0, 4.0), KEY, floor=0.0)
    driven = drive(exact_steps(), rule)
    state, norms = driven.init(origin()), []
    for block in range(3):  # each once, because an unknown arm counts as the best
        state, info = step(driven, state)
        assert int(info.block) == block
        norms.append(info.grad_norm)
    expected = np.square(norms) / (2 * np.diag(A)) / [1.0, 1.0, 4.0]
    np.testing.assert_allclose(state.rule.gains, expected, rtol=1e-9)


def test_rules_hear_the_mean_signal_of_the_seeds():
    many = drive(exact_steps(), selection.aggressive(3, 0, 1), seeds=True)
    state, keys = many.init(copies(origin(), 3)), jax.random.split(KEY, 3)
    for signal, best in (([np.nan] * 3, -np.inf), ([1.0, 3.0, np.nan], 2.0),
                         ([1.5] * 3, 2.0)):
        assert state.rule.active
        state, _ = step(many, state, 0.0, keys, jnp.array(signal))
        assert float(state.rule.best) == best
    assert not state.rule.active


# Norms of all gradients, and what they cost.

class Counted(NamedTuple):
    """A loss that counts its evaluations while it runs."""

    loss: cdgm.LossFn
    seen: list

    def __call__(self, params, batch, key):
        jax.debug.callback(lambda: self.seen.append(1))
        return self.loss(params, batch, key)


def test_norms_are_those_of_the_whole_gradient():
    params = {'x': jnp.array([1.0, -2.0]), 'y': {'w': jnp.ones((2, 2)),
                                                 'b': jnp.array(0.3)}}

    def loss(params, batch, key):
        y = params['y']['w'] @ params['x'] * params['y']['b']
        return jnp.sum((batch - y) ** 2), None

    descent = cdgm.block_descent({
        'rest': cdgm.Block(['x', 'y/b'], loss, optax.sgd(1.0)),
        'w': cdgm.Block('y/w', loss, optax.sgd(1.0))})
    batch = jnp.array([0.5, 2.0])
    grads = jax.grad(lambda p: loss(p, batch, KEY)[0])(params)
    expected = [np.sqrt(np.sum(grads['x'] ** 2) + grads['y']['b'] ** 2),
                np.linalg.norm(grads['y']['w'])]
    norms = quick_jit(partial(block_grad_norms, descent))(params, batch, KEY)
    assert norms.dtype == float
    np.testing.assert_allclose(norms, expected, rtol=1e-14)


def test_blocks_of_one_loss_share_a_pass_and_a_game_has_two():
    one = Counted(quadratic, [])
    two = Counted(lambda *args: (-3 * quadratic(*args)[0], None), [])
    descent = cdgm.block_descent({
        'x': cdgm.Block('x', one, optax.sgd(1.0)),
        'y': cdgm.Block('y', two, optax.sgd(1.0)),
        'z': cdgm.Block('z', one, optax.sgd(1.0))})
    params = {'x': jnp.array(1.0), 'y': jnp.array(2.0), 'z': jnp.array(-1.0)}
    norms = quick_jit(partial(block_grad_norms, descent))(params, 0.0, KEY)
    jax.effects_barrier()
    assert (len(one.seen), len(two.seen)) == (1, 1)
    gradient = A @ [1.0, 2.0, -1.0] - B
    np.testing.assert_allclose(norms, np.abs(gradient * [1, 3, 1]), rtol=1e-14)


@pytest.mark.parametrize(('rule', 'expected'), [
    # One evaluation for the step; a refresh is one more, a gain one, a secant two.
    (selection.gauss_southwell(3, refresh=3, lipschitz='estimated'), [4, 1, 1, 4, 1]),
    (selection.bandit((1, 1, 1), KEY, refresh=4), [2, 1, 1, 1, 2]),
])
def test_a_step_pays_for_what_its_rule_measures(rule, expected):
    counted = Counted(quadratic, [])
    # Over seeds, which is the harder case: a call evaluates the loss of all seeds.
    driven = drive(exact_steps(counted), always_first(rule), seeds=True)
    state, keys, costs = driven.init(copies(origin(), 2)), jax.random.split(KEY, 2), []
    for _ in expected:
        counted.seen.clear()
        state, _ = step(driven, state, key=keys)
        jax.effects_barrier()
        costs.append(len(counted.seen))
    assert costs == expected


# One choice for all seeds.

def test_the_seeds_choose_by_their_mean_and_a_diverged_one_has_no_say():
    def loss(params, batch, key):
        return jnp.sum(batch * jnp.stack([params[name] for name in NAMES])), None

    descent = cdgm.block_descent({name: cdgm.Block(name, loss, optax.sgd(1.0))
                                  for name in NAMES})
    rule = selection.gauss_southwell(3, refresh=1)
    many = drive(descent, rule, seeds=True, batch_axis=0)
    slopes = jnp.array([[5.0, 0.0, 3.0], [0.0, 1.0, 3.0], [jnp.nan, jnp.nan, 0.0]])
    state = many.init({name: jnp.zeros(3) for name in NAMES})
    state, info = step(many, state, slopes, jax.random.split(KEY, 3))
    np.testing.assert_allclose(state.rule.norms, [2.5, 0.5, 2.0])  # 2 is the mean of 3
    assert info.block.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(state.descent.params['x'], -slopes[:, 0])
    np.testing.assert_array_equal(state.descent.params['z'], np.zeros(3))


LAYERS, SEEDS = 6, 8
DEEP = {
    'schedule': (cdgm.cyclic((1,) * LAYERS), 1),
    'gauss_southwell': (selection.gauss_southwell(LAYERS, refresh=5), 2),
    'gsl': (selection.gauss_southwell(LAYERS, refresh=5, lipschitz='estimated'), 4),
    'importance': (selection.importance(LAYERS, KEY), 3),
    'bandit': (selection.bandit((1,) * LAYERS, KEY), 2),
    'plateau': (selection.plateau(LAYERS, patience=3), 1),
    'aggressive': (selection.aggressive(LAYERS, 0, 1), 1),
}


def deep(params, batch, key):
    for i in range(LAYERS):
        batch = batch @ params[f'{i}']
    return jnp.mean(batch ** 2), None


def compiled(function, *args):
    return quick_jit(function).lower(*args).compile()


@pytest.fixture(scope='module')
def chain():
    """A chain of layers over seeds: (descent, params, batch, keys, FLOPs of all)."""
    descent = cdgm.block_descent({f'{i}': cdgm.Block(f'{i}', deep, optax.sgd(0.1))
                                  for i in range(LAYERS)})
    params = {f'{i}': jnp.ones((SEEDS, 8, 8)) for i in range(LAYERS)}
    batch, key = jnp.ones((16, 8)), jax.random.key(0)
    state = jax.eval_shape(jax.vmap(descent.init), params)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
    every = sum(compiled(lambda s, name=name: descent.step(s, batch, key, name), one)
                .cost_analysis()['flops'] for name in descent.blocks)
    return descent, params, batch, jax.random.split(key, SEEDS), every


@pytest.mark.parametrize('name', DEEP)
@pytest.mark.sample(2)
def test_the_program_over_seeds_holds_conditionals_and_not_every_branch(name, chain):
    descent, params, batch, keys, every = chain
    rule, conditionals = DEEP[name]
    driven = drive(descent, rule, seeds=True)
    program = compiled(driven.step, jax.eval_shape(driven.init, params), batch, keys)
    # One for the step, one for each thing that is measured now and then, and one for
    # the block whose secant it is.
    assert program.as_text().count(' conditional(') == conditionals
    # XLA counts the dearest branch of a conditional: a refreshing step.
    assert program.cost_analysis()['flops'] < SEEDS * every
    traced = jax.make_jaxpr(driven.step)(driven.init(params), batch, keys)
    assert dots_outside_conditionals(traced.jaxpr) == 0


def test_a_choice_of_its_own_for_every_seed_runs_every_branch(chain):
    descent, params, batch, keys, _ = chain
    driven = drive(descent, cdgm.cyclic((1,) * LAYERS))
    state = jax.vmap(driven.init)(params)
    traced = jax.make_jaxpr(jax.vmap(driven.step, (0, None, 0)))(state, batch, keys)
    assert dots_outside_conditionals(traced.jaxpr) > LAYERS ** 2


def dots_outside_conditionals(jaxpr) -> int:
    """Count the matrix products that run whatever is chosen."""
    count = 0
    for eqn in jaxpr.eqns:
        count += eqn.primitive.name == 'dot_general'
        if eqn.primitive.name != 'cond':
            inner = jax.extend.core.jaxprs_in_params(eqn.params)
            count += sum(map(dots_outside_conditionals, inner))
    return count


# Errors.

def test_bad_drivers():
    descent = exact_steps()
    with pytest.raises(ValueError, match="for 2 blocks, and there are 3: 'x', 'y'"):
        drive(descent, cdgm.cyclic((1, 1)))
    with pytest.raises(ValueError, match='for 4 blocks, and there are 3'):
        drive(descent, selection.bandit((1, 1, 1, 1), KEY))
    with pytest.raises(TypeError, match='the rule is a function; give a SelectionRule'):
        drive(descent, lambda count: count % 3)
