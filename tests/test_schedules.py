"""Schedules: pure functions of the count, exact over a period, fair where random."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import schedules

KEY = jax.random.key(3)
ALL = {
    'cyclic': schedules.cyclic((2, 0, 1)),
    'sequence': schedules.sequence((0, 1, 2, 1), 3),
    'shuffled': schedules.shuffled((2, 0, 1), KEY),
    'uniform': schedules.uniform(3, KEY, (0.5, 0.2, 0.3)),
    'phases': schedules.phases([(schedules.cyclic((1, 1, 0)), 3),
                                (schedules.shuffled((1, 1, 1), KEY), None)]),
}


def blocks_of(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)))


@pytest.mark.parametrize('name', ALL)
@pytest.mark.sample(2)
def test_vmap_scan_and_history_do_not_matter(name):
    schedule = ALL[name]

    @jax.jit
    def by_three_ways(counts):
        def body(count, _):
            return count + 1, schedule(count)
        return (jax.vmap(schedule)(counts), jax.lax.map(schedule, counts[::-1]),
                jax.lax.scan(body, 0, length=8)[1])

    together, backwards, scanned = by_three_ways(jnp.arange(8))
    np.testing.assert_array_equal(scanned, together)
    np.testing.assert_array_equal(backwards[::-1], together)
    assert scanned.dtype == jnp.int32
    assert together.min() >= 0 and together.max() < schedule.num_blocks == 3


def test_a_schedule_can_be_jitted_itself():
    assert int(jax.jit(ALL['cyclic'])(2)) == 2


def test_cyclic_visits_the_blocks_in_their_order():
    schedule = schedules.cyclic((5, 0, 2))
    assert schedule.period == 7
    assert blocks_of(schedule, 14).tolist() == ([0] * 5 + [2] * 2) * 2


def test_sequence_may_visit_a_block_twice():
    schedule = schedules.sequence((0, 1, 2, 1), 3)
    assert schedule.period == 4
    assert blocks_of(schedule, 8).tolist() == [0, 1, 2, 1] * 2


def test_shuffled_gives_every_order_as_often_and_each_block_its_visits_in_one_go():
    cycles, visits = 3000, (2, 1, 0, 1)
    schedule = schedules.shuffled(visits, KEY)
    drawn = blocks_of(schedule, cycles * schedule.period).reshape(cycles, -1)
    for block, steps in enumerate(visits):
        assert (np.sum(drawn == block, axis=1) == steps).all()
    orders = [tuple(block for block, _ in itertools.groupby(cycle)) for cycle in drawn]
    p = 1 / 6
    for order in itertools.permutations((0, 1, 3)):
        error = math.sqrt(p * (1 - p) / cycles)
        assert abs(orders.count(order) / cycles - p) <= 4 * error
    assert all(len(order) == 3 for order in orders)


@pytest.mark.parametrize('probabilities', [None, (0.7, 0.0, 0.3)])
def test_uniform_has_its_frequencies(probabilities):
    draws = 4000
    p = np.full(3, 1 / 3) if probabilities is None else np.array(probabilities)
    drawn = blocks_of(schedules.uniform(3, KEY, probabilities), draws)
    frequencies = np.bincount(drawn, minlength=3) / draws
    assert (abs(frequencies - p) <= 4 * np.sqrt(p * (1 - p) / draws)).all()


def test_uniform_draws_are_independent_of_each_other():
    draws = 4000
    drawn = blocks_of(schedules.uniform(2, KEY), draws) - 0.5
    assert abs(np.mean(drawn[1:] * drawn[:-1])) <= 4 * 0.25 / math.sqrt(draws)


@pytest.mark.parametrize('name', ['shuffled', 'uniform'])
def test_the_key_decides(name):
    def drawn(key):
        schedule = {'shuffled': lambda: schedules.shuffled((1,) * 4, key),
                    'uniform': lambda: schedules.uniform(4, key)}[name]()
        return jax.vmap(schedule)(jnp.arange(40))

    first, other = jax.jit(jax.vmap(drawn))(jax.random.split(KEY, 2))
    assert (first != other).any()


def test_draws_do_not_depend_on_the_default_float():
    wide = blocks_of(ALL['uniform'], 60)
    with jax.enable_x64(False):
        np.testing.assert_array_equal(blocks_of(ALL['uniform'], 60), wide)


def test_phases_count_from_their_start():
    schedule = schedules.phases([(schedules.cyclic((1, 0)), 3),
                                 (schedules.cyclic((0, 1)), 2),
                                 (schedules.cyclic((2, 1)), None)])
    assert blocks_of(schedule, 11).tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1]
    assert schedule.period == 3


@pytest.mark.parametrize('write, words', [
    (lambda: schedules.cyclic(()), 'visits per block are ()'),
    (lambda: schedules.cyclic((1, -1)), 'visits per block are (1, -1)'),
    (lambda: schedules.cyclic((0, 0)), 'not all of them 0'),
    (lambda: schedules.cyclic((1.0, 2)), 'whole number'),
    (lambda: schedules.shuffled(((1, 2),), KEY), 'visits per block'),
    (lambda: schedules.sequence((0, 2), 2), 'whole number 0 … 1'),
    (lambda: schedules.sequence((0, -1), 2), '(0, -1)'),
    (lambda: schedules.sequence((0.5, 1), 2), 'whole number'),
    (lambda: schedules.sequence((), 2), 'at least one block'),
    (lambda: schedules.uniform(2, KEY, (0.5, 0.6)), 'sum to 1.1'),
    (lambda: schedules.uniform(2, KEY, (1.5, -0.5)), 'number >= 0'),
    (lambda: schedules.uniform(2, KEY, (0.5, 0.25, 0.25)), 'each of the 2 blocks'),
    (lambda: schedules.uniform(2, KEY, (math.nan, 1.0)), 'sum to nan'),
    (lambda: schedules.phases([]), 'phase lengths are []'),
    (lambda: schedules.phases([(ALL['cyclic'], 3)]), 'None to the last'),
    (lambda: schedules.phases([(ALL['cyclic'], 0), (ALL['cyclic'], None)]), '[0, None'),
    (lambda: schedules.phases([(ALL['cyclic'], -1), (ALL['cyclic'], None)]), '[-1, N'),
    (lambda: schedules.phases([(ALL['cyclic'], 2), (schedules.cyclic((1, 1)), None)]),
     'written for [2, 3] blocks'),
    (lambda: schedules.check_num_blocks(ALL['cyclic'], ('a', 'b')),
     "written for 3 blocks, and there are 2: 'a', 'b'"),
])
def test_errors_say_what_was_seen(write, words):
    with pytest.raises(ValueError) as caught:
        write()
    assert words in str(caught.value) and '\n' not in str(caught.value)
