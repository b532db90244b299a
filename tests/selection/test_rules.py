"""Rules against plain Python on recorded worlds, closed forms and frequencies."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cdgm
from cdgm import selection
from cdgm.selection import StepStats

BLOCKS = 3
COSTS = (1.0, 2.0, 4.0)


class World(NamedTuple):
    """What would be measured of each block in a step, float[T, B]; signal float[T]."""

    norms: jax.Array
    losses: jax.Array
    decreases: jax.Array
    secants: jax.Array
    signals: jax.Array


def recorded(seed, steps, num_blocks=BLOCKS):
    rng = np.random.default_rng(seed)
    norms, losses, secants = rng.uniform(0.1, 2.0, (3, steps, num_blocks))
    signals = np.where(rng.random(steps) < 0.1, rng.normal(size=steps), np.nan)
    return World(norms, losses, rng.normal(size=(steps, num_blocks)), secants, signals)


@partial(jax.jit, static_argnums=0)
def step(rule, state, world):
    """Take one step in a world: (state, index)."""
    index, state = rule.select(state, lambda: world.norms)
    seen = StepStats(index, world.losses[index], world.norms[index], world.signals,
                     ~jnp.isnan(world.signals), lambda: world.decreases[index],
                     lambda: world.secants[index])
    return rule.observe(state, seen), index


@partial(jax.jit, static_argnums=0)
def scan(rule, state, world):
    return jax.lax.scan(partial(step, rule), state, world)


def loop(rule, state, world):
    """The same as `scan`, one program a step: (state, int[T])."""
    indices = []
    for t in range(len(world.norms)):
        state, index = step(rule, state, jax.tree.map(lambda x, t=t: x[t], world))
        indices.append(int(index))
    return state, np.array(indices)


def play(rule, world, state=None):
    """Scan a rule over a world: (state, int[T])."""
    start = rule.init() if state is None else state
    world = jax.tree.map(lambda x: jnp.asarray(x, float), world)
    state, indices = scan(rule, start, world)
    return state, np.asarray(indices)


KEY = jax.random.key(3)
RULES = {
    'schedule': selection.from_schedule(cdgm.shuffled((2, 1, 1), KEY)),
    'gauss_southwell': selection.gauss_southwell(BLOCKS, refresh=4),
    'gsl': selection.gauss_southwell(BLOCKS, refresh=4, lipschitz='estimated'),
    'importance': selection.importance(BLOCKS, KEY, refresh=3),
    'bandit': selection.bandit(COSTS, KEY, refresh=2),
    'plateau': selection.plateau(BLOCKS, patience=2, threshold=0.1, max_steps=5),
    'catch_up': selection.catch_up(BLOCKS, 1, 2, least=0., extra=3),
    'aggressive': selection.aggressive(BLOCKS, 2, 0, window=2, max_inner=7,
                                       patience=3),
}
every_rule = pytest.mark.parametrize('name', RULES)


# State machines.

def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@every_rule
def test_a_rule_resumes_through_numpy_in_the_middle_of_a_sweep(name):
    rule, n, world = RULES[name], 20, recorded(0, 43)
    first, rest = (jax.tree.map(lambda x, part=part: x[part], world)
                   for part in (slice(n + 1), slice(n + 1, None)))
    straight, all_indices = loop(rule, rule.init(), world)
    state, indices = loop(rule, rule.init(), first)
    saved = [np.array(leaf) for leaf in jax.device_get(jax.tree.leaves(state))]
    state = jax.tree.unflatten(jax.tree.structure(state), jax.device_put(saved))
    state, more = loop(rule, state, rest)
    assert_same(state, straight)
    np.testing.assert_array_equal(np.concatenate([indices, more]), all_indices)
    assert len(set(all_indices)) > 1


@every_rule
def test_scan_is_a_loop_and_vmap_is_many_rules(name):
    rule, copies = RULES[name], 8
    worlds = [recorded(seed, 12) for seed in range(copies)]
    loops = [loop(rule, rule.init(), world) for world in worlds]
    states, indices = jax.tree.map(lambda *xs: np.stack(xs), *loops)
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *worlds)

    many = jax.vmap(lambda world: scan(rule, rule.init(), world))(stacked)
    np.testing.assert_array_equal(many[1], indices)
    # Products and sums may be fused in one of the programs.
    chex.assert_trees_all_close(many[0], states, rtol=1e-14, atol=0)


# Gauss-Southwell.

def python_gauss_southwell(world, refresh, lipschitz):
    norms, indices = None, []
    for t in range(len(world.norms)):
        if t % refresh == 0:
            norms = world.norms[t].copy()
        index = int(np.argmax(norms ** 2 / lipschitz))
        norms[index] = world.norms[t, index]
        indices.append(index)
    return norms, indices


@pytest.mark.parametrize('refresh', [1, 5])
@pytest.mark.parametrize('lipschitz', [None, (1.0, 0.3, 2.0)])
def test_gauss_southwell_is_the_plain_one(refresh, lipschitz):
    world = recorded(1, 40)
    rule = selection.gauss_southwell(BLOCKS, refresh=refresh, lipschitz=lipschitz)
    state, indices = play(rule, world)
    norms, expected = python_gauss_southwell(world, refresh,
                                             np.array(lipschitz or (1, 1, 1)))
    assert indices.tolist() == expected
    np.testing.assert_array_equal(state.norms, norms)
    assert len(set(expected)) == BLOCKS


def test_estimated_constants_are_running_means_of_the_secants():
    world, refresh, decay = recorded(2, 40), 4, 0.7
    rule = selection.gauss_southwell(BLOCKS, refresh=refresh, lipschitz='estimated',
                                     decay=decay)
    state, indices = play(rule, world)
    norms, known, expected = None, {}, []
    for t, secants in enumerate(world.secants):
        if t % refresh == 0:
            norms = world.norms[t].copy()
        mean = np.mean(list(known.values())) if known else 1.0
        constants = np.array([known.get(b, mean) for b in range(BLOCKS)])
        index = int(np.argmax(norms ** 2 / constants))
        if index not in known:
            known[index] = secants[index]
        elif t % refresh == 0:
            known[index] = decay * known[index] + (1 - decay) * secants[index]
        norms[index] = world.norms[t, index]
        expected.append(index)
    assert indices.tolist() == expected
    np.testing.assert_allclose(state.lipschitz, [known[b] for b in range(BLOCKS)],
                               rtol=1e-14)


def quadratic(seed, n):
    """A positive definite A with an uneven diagonal, and b."""
    rng = np.random.default_rng(seed)
    scale = np.diag(10.0 ** rng.uniform(-1, 1, n))
    factor = scale @ rng.normal(size=(n, n))
    return factor @ factor.T + 0.1 * scale, rng.normal(size=n)


@pytest.mark.parametrize('scaled', [False, True])
def test_greedy_choice_on_a_quadratic_with_exact_steps(scaled):
    n, steps = 6, 60
    a, b = quadratic(4, n)
    rule = selection.gauss_southwell(n, refresh=1,
                                     lipschitz=np.diag(a) if scaled else None)
    state, x = rule.init(), np.zeros(n)
    dull = np.zeros(n)
    for _ in range(steps):
        gradient = a @ x - b
        world = World(np.abs(gradient), dull, dull, dull, np.nan)
        state, index = step(rule, state, world)

        def after(i):
            moved = x.copy()
            moved[i] -= gradient[i] / a[i, i]
            return moved

        def value(x):
            return x @ a @ x / 2 - b @ x

        best = np.argmin([value(after(i)) for i in range(n)])
        assert int(index) == (best if scaled else np.argmax(np.abs(gradient)))
        x = after(int(index))


# Random choice.

def assert_frequencies(indices, probabilities):
    """Frequencies are within four standard errors of the probabilities."""
    observed = np.bincount(indices, minlength=len(probabilities)) / len(indices)
    error = np.sqrt(probabilities * (1 - probabilities) / len(indices))
    assert (np.abs(observed - probabilities) <= 4 * error).all(), observed


def constant(steps, **given):
    """A world in which every step measures the same: float[B] of each statistic."""
    zeros = np.zeros(BLOCKS)
    values = {name: given.get(name, zeros) for name in World._fields}
    values['signals'] = np.float64(np.nan)
    return World(**{name: np.broadcast_to(x, (steps, *np.shape(x)))
                    for name, x in values.items()})


def test_uniform_frequencies():
    rule = selection.from_schedule(cdgm.uniform(BLOCKS, KEY))
    _, indices = play(rule, constant(4000))
    assert_frequencies(indices, np.full(BLOCKS, 1 / BLOCKS))


@pytest.mark.parametrize(('power', 'floor'), [(1.0, 0.0), (0.5, 0.2)])
def test_importance_draws_by_a_power_of_the_constants(power, floor):
    lipschitz = np.array([1.0, 4.0, 16.0])
    rule = selection.importance(BLOCKS, KEY, power=power, floor=floor)
    state, indices = play(rule, constant(4000, secants=lipschitz))
    np.testing.assert_allclose(state.lipschitz, lipschitz, rtol=1e-14)
    weights = lipschitz ** power / np.sum(lipschitz ** power)
    # By then every block has moved and is measured.
    assert_frequencies(indices[200:], floor + (1 - BLOCKS * floor) * weights)


def test_importance_starts_uniform_and_ignores_what_is_not_finite():
    broken = constant(4000, secants=np.array([np.nan, np.inf, np.nan]))
    state, indices = play(selection.importance(BLOCKS, KEY), broken)
    assert np.isinf(state.lipschitz).all()
    assert_frequencies(indices, np.full(BLOCKS, 1 / BLOCKS))


def test_the_bandit_finds_the_best_arm_per_cost_and_keeps_the_floor():
    floor, gains = 0.2, np.array([1.0, 3.0, 4.0])  # per cost 1, 1.5, 1
    state, indices = play(selection.bandit(COSTS, KEY, floor=floor),
                          constant(4000, decreases=gains))
    np.testing.assert_allclose(state.gains, gains / COSTS, rtol=1e-14)
    assert_frequencies(indices[200:], np.array([floor, 1 - 2 * floor, floor]))


def test_the_bandit_without_a_floor_takes_the_best_known_gain():
    world, decay, refresh = recorded(5, 60), 0.8, 2
    rule = selection.bandit(COSTS, KEY, floor=0.0, decay=decay, refresh=refresh)
    state, indices = play(rule, world)
    gains, expected = np.full(BLOCKS, np.inf), []
    for t, decreases in enumerate(world.decreases):
        arm = int(np.argmax(gains))
        gain = decreases[arm] / COSTS[arm]
        if np.isinf(gains[arm]):
            gains[arm] = gain
        elif t % refresh == 0:
            gains[arm] = decay * gains[arm] + (1 - decay) * gain
        expected.append(arm)
    assert indices.tolist() == expected
    np.testing.assert_allclose(state.gains, gains, rtol=1e-14)
    assert len(set(expected)) == BLOCKS


# Switching by progress.

def python_plateau(losses, patience, threshold, max_steps):
    block, visit, indices = 0, [], []
    for loss in losses:
        indices.append(block)
        visit.append(loss[block])
        best, waited = np.inf, 0
        for seen in visit:
            waited = 0 if seen < best - threshold else waited + 1
            best = seen if seen < best - threshold else best
        if waited >= patience or len(visit) == max_steps:
            block, visit = (block + 1) % BLOCKS, []
    return indices


@pytest.mark.parametrize(('patience', 'threshold', 'max_steps'),
                         [(1, 0.0, None), (3, 0.2, None), (4, 0.0, 6)])
def test_plateau_is_the_plain_one(patience, threshold, max_steps):
    world = recorded(6, 120)
    world.losses[50] = np.nan  # no progress, and no harm
    rule = selection.plateau(BLOCKS, patience=patience, threshold=threshold,
                             max_steps=max_steps)
    _, indices = play(rule, world)
    assert indices.tolist() == python_plateau(world.losses, patience, threshold,
                                              max_steps)
    assert set(indices) == {0, 1, 2}


def python_aggressive(world, inner, outer, window, max_inner, patience):
    """He et al. 2019, in nested loops over the recorded steps."""
    steps = iter(zip(world.losses, world.signals))
    indices, best, failures = [], -np.inf, 0

    def take(block):
        nonlocal best, failures
        losses, signal = next(steps)
        indices.append(block)
        if not np.isnan(signal):
            failures += signal < best
            best = max(best, signal)
        return losses[block]

    def one_round():
        last, total = np.inf, 0.0
        for taken in range(1, max_inner + 1):
            total += take(inner)
            if failures >= patience:
                return
            if taken % window == 0:
                if total / window > last:
                    break
                last, total = total / window, 0.0
        take(outer)

    try:
        while failures < patience:
            one_round()
        while True:
            take(inner)
            take(outer)
    except StopIteration:
        return indices


@pytest.mark.parametrize(('window', 'max_inner', 'patience'),
                         [(1, 9, 1), (3, 7, 4), (2, 99, 100)])
def test_aggressive_is_the_plain_one(window, max_inner, patience):
    world = recorded(7, 150)
    rule = selection.aggressive(BLOCKS, 1, 2, window=window, max_inner=max_inner,
                                patience=patience)
    state, indices = play(rule, world)
    assert indices.tolist() == python_aggressive(world, 1, 2, window, max_inner,
                                                 patience)
    assert bool(state.active) == (patience == 100)


def test_a_round_ends_where_the_window_mean_rises():
    losses = np.zeros((9, 2))
    losses[:, 0] = [5, 5, 4, 4, 3, 6, 0, 1, 1]  # means of two: 5, 4, 4.5
    world = World(losses, losses, losses, losses, np.full(9, np.nan))
    _, indices = play(selection.aggressive(2, 0, 1, window=2), world)
    assert indices.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_a_falling_signal_ends_the_aggressive_phase_for_ever():
    losses, signals = np.zeros((12, 2)), np.full(12, np.nan)
    signals[[1, 4, 5, 8]] = [1.0, 0.5, 2.0, 9.0]
    world = World(losses, losses, losses, losses, signals)
    rule = selection.aggressive(2, 0, 1, window=1, max_inner=50,
                                then=cdgm.cyclic((1, 2)))
    state, indices = play(rule, world)
    assert indices.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 0]
    assert not state.active


# Errors.

def test_catching_up_goes_by_the_last_signal():
    signals = np.full(24, np.nan)
    signals[[4, 11, 17]] = 0.2, -0.3, 0.1  # below 0 it lags, as it does at the start
    world = constant(24)._replace(signals=jnp.asarray(signals))
    _, indices = play(selection.catch_up(BLOCKS, 0, 2, least=0., extra=3), world)
    # The signal of a step is heard after it, and a round that is over its new length
    # ends at once.
    assert indices.tolist() == [0, 0, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2,
                                0, 0, 0, 2, 0, 0, 2, 0, 2, 0, 2, 0]


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: selection.catch_up(2, 0, 0, least=0.), 'give two blocks'),
    (lambda: selection.catch_up(2, 0, 1, least=0., extra=0), 'extra is 0'),
    (lambda: selection.gauss_southwell(2, refresh=0), 'refresh is 0; .* >= 1'),
    (lambda: selection.gauss_southwell(2, refresh=1, lipschitz=(1, 2, 3)),
     r'lipschitz is \(1, 2, 3\).*each of the 2 blocks'),
    (lambda: selection.gauss_southwell(2, refresh=1, lipschitz=(1, 0)), 'number > 0'),
    (lambda: selection.gauss_southwell(2, refresh=1, lipschitz='guessed'), 'guessed'),
    (lambda: selection.importance(4, KEY, floor=0.3),
     'floor is 0.3, which makes 1.2 over 4 blocks'),
    (lambda: selection.importance(4, KEY, refresh=0), 'refresh is 0'),
    (lambda: selection.bandit((1, 1), KEY, floor=-0.1), 'floor is -0.1'),
    (lambda: selection.bandit((1, 0), KEY), r'costs are \(1, 0\)'),
    (lambda: selection.bandit((), KEY), r'costs are \(\)'),
    (lambda: selection.plateau(2, patience=0), 'patience is 0'),
    (lambda: selection.plateau(2, patience=1, threshold=-1.0), 'threshold is -1.0'),
    (lambda: selection.plateau(2, patience=1, threshold=np.nan), 'threshold is nan'),
    (lambda: selection.plateau(2, patience=1, max_steps=0), 'max_steps is 0'),
    (lambda: selection.aggressive(2, 0, 2), 'outer is block 2, .* 2 blocks'),
    (lambda: selection.aggressive(2, -1, 1), 'inner is block -1'),
    (lambda: selection.aggressive(2, 1, 1), 'both block 1'),
    (lambda: selection.aggressive(2, 0, 1, window=0), 'window is 0'),
    (lambda: selection.aggressive(2, 0, 1, window=20, max_inner=9),
     'window is 20, and max_inner 9'),
    (lambda: selection.aggressive(2, 0, 1, patience=0), 'patience is 0'),
    (lambda: selection.aggressive(2, 0, 1, then=cdgm.cyclic((1, 1, 1))),
     'then is written for 3 blocks'),
])
def test_bad_rules(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert '\n' not in str(caught.value)
