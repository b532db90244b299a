"""What a GPU or TPU would be measured by, at a toy size on the CPU."""

import json
import types

import jax
import pytest

from benchmarks import device
from cdgm import layers

SIZES = {'context': 8, 'vocabulary': 11, 'chunk': 8}
TOY = (2, 16)


@pytest.fixture(autouse=True)
def float32():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope='module')
def plans():
    with jax.enable_x64(False):
        return device.plans(TOY, **SIZES)


@pytest.mark.thorough
def test_joint_adam_is_planned_at_more_than_its_law(plans):
    count, layer = device._counts(TOY, **SIZES)
    assert count > 2 * layer > 0
    assert plans['joint'] >= 16 * count


@pytest.mark.parametrize('way', ['layers', 'joint'])
@pytest.mark.thorough
def test_a_row_says_what_training_took(way, plans, monkeypatch):
    monkeypatch.setattr(device, 'plans', lambda *shape, **sizes: plans)  # compiled once
    row = device.row(way, TOY, **SIZES)
    assert (row['layers'], row['width']) == TOY
    assert row['plan GB'] == plans[way] / 1e9
    assert row['tokens a second'] * row['ms a step'] == pytest.approx(
        1e3 * device.BATCH * SIZES['context'])
    assert row['peak GB'] is None, 'no such figure on a CPU'


def test_the_largest_that_fits_is_found_from_the_plan(monkeypatch):
    asked = []

    def plans(shape, **_):
        asked.append(shape)
        return {'layers': 10 ** 6, 'joint': 10 ** 6 * shape[0]}

    monkeypatch.setattr(device, 'plans', plans)
    shapes, limit = ((64, 4096), (4, 32), TOY), 3e6
    assert device.largest(['layers'], limit, shapes, **SIZES) == (4, 32)
    assert device.largest(['layers', 'joint'], limit, shapes, **SIZES) == TOY
    assert (64, 4096) not in asked, 'nothing is compiled that cannot fit'
    assert device.largest(['joint'], 1e3, shapes, **SIZES) is None


@pytest.mark.thorough
def test_a_stack_begins_in_16_bits_as_the_whole_model_does_in_32():
    model = device._problem(TOY, **SIZES).model
    coded, whole = (device.start(way, TOY, model, **SIZES)
                    for way in ('layers', 'joint'))
    assert {x.dtype.name for x in jax.tree.leaves(coded['layers'])} == {'uint16'}
    assert jax.tree.map(lambda x: x.shape, coded) == jax.tree.map(
        lambda x: x.shape, whole)
    assert (layers.decode(coded['layers'])['mlp']['norm'] == 1).all()


def test_a_cpu_is_not_measured():
    assert 'limit' not in device.at_hand()
    assert device.rows() == ([], device.NONE)


def test_a_device_is_asked_once_and_each_row_has_a_process_of_its_own(monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command[3:])
        told = {'platform': 'gpu', 'kind': 'toy', 'limit': 2e9, 'alone': [4, 32],
                'both': TOY} if not asked[-1] else {'row': asked[-1]}
        failed = asked[-1] == ['joint', '2', '16']
        return types.SimpleNamespace(returncode=failed, stdout=json.dumps(told),
                                     stderr='out of memory')

    monkeypatch.setattr(device.subprocess, 'run', run)
    rows, said = device.rows()
    assert asked == [[], ['layers', '4', '32'], ['layers', '2', '16'],
                     ['joint', '2', '16']]
    assert [row['row'] for row in rows] == asked[1:3]
    assert 'on toy, 2.0 GB' in said and 'out of memory' in said
