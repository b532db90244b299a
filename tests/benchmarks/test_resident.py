"""The resident set's rise is what a program takes beside what it holds."""

import jax
import numpy as np
import pytest

from benchmarks import resident


def on_linux(found):
    if found is None:
        pytest.skip('no high-water mark on this system')
    return found


def test_what_a_program_takes_and_frees_is_seen():
    size = 100_000_000
    found = on_linux(resident.peak(lambda: np.ones(size, np.uint8).sum(), lambda: 7))
    assert found == pytest.approx(size, rel=0.2)
    assert on_linux(resident.peak(lambda: None, lambda: 7)) < size / 10


@pytest.mark.parametrize('way', resident.WAYS[:2])
@pytest.mark.thorough
def test_a_cycle_is_measured_with_what_it_holds(way):
    with jax.enable_x64(False):
        found = resident.megabytes(way, 2, width=16, context=8, vocabulary=11)
    assert 0 < on_linux(found) < 1e3


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match='no depth'):
        resident.measured('cdgm', 'no depth')
