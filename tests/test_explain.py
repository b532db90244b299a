"""The table counts what XLA counts, and says what a reader needs."""

import jax
import jax.numpy as jnp
import optax
import pytest

import cdgm

NAMES = ('encoder', 'decoder')
PARAMS = {'encoder': jax.ShapeDtypeStruct((256, 128), jnp.float32),
          'decoder': jax.ShapeDtypeStruct((128, 256), jnp.float32)}
BATCH = jax.ShapeDtypeStruct((256, 256), jnp.float32)
PRODUCT = 2 * 256 * 256 * 128  # FLOPs of either layer


def loss(params, x, key):
    del key
    return jnp.mean(jnp.abs(x @ params['encoder'] @ params['decoder'])), None


def descent(**policy):
    return cdgm.block_descent({
        'encoder': cdgm.Block('encoder', loss, optax.adam(1e-3), **policy),
        'decoder': cdgm.Block('decoder', loss, optax.sgd(1e-3))})


@pytest.fixture(scope='module')
def told():
    return cdgm.explain(descent(), PARAMS, BATCH, ('decoder', 'encoder'))


def products(cost):
    return cost.flops / PRODUCT


def test_steps_cost_their_matrix_products(told):
    encoder, decoder = told.blocks
    assert [row.name for row in told.blocks] == list(NAMES)
    # Forward 2, and back through the decoder 1 to the encoder's own 1.
    assert products(encoder.step) == pytest.approx(4, abs=0.25)
    assert products(decoder.step) == pytest.approx(3, abs=0.25)
    # The decoder meets the encoder's output again; the encoder meets nothing again.
    assert products(decoder.repeat_step) == pytest.approx(2, abs=0.25)
    assert encoder.repeat_step.flops == pytest.approx(encoder.step.flops, rel=0.03)
    assert encoder.step.bytes > 4 * 256 * 256


def test_a_sweep_shares_and_is_measured_against_a_joint_step(told):
    assert products(told.joint) == pytest.approx(5, abs=0.25)
    assert products(told.cycle) == pytest.approx(6, abs=0.4)
    assert told.unshared_flops == sum(row.step.flops for row in told.blocks)
    assert told.break_even == told.cycle.flops / told.joint.flops


def test_state_is_what_a_descent_carries(told):
    count, weights = 4, 4 * 256 * 128
    assert [row.state_bytes for row in told.blocks] == [count + 2 * weights, 0]
    ephemeral = cdgm.explain(descent(ephemeral=True), PARAMS, BATCH, NAMES[:1])
    assert ephemeral.blocks[0].state_bytes == 0


def test_a_long_visit_is_counted_step_by_step():
    visit = cdgm.explain(descent(), PARAMS, BATCH, ('decoder',) * 10)
    _, decoder = visit.blocks
    assert visit.cycle.flops == pytest.approx(
        decoder.step.flops + 9 * decoder.repeat_step.flops, rel=1e-6)


def test_the_text_is_a_table(told):
    text, memory = str(told).split('\n\n')
    head, *rows, order, shared = text.splitlines()
    assert [row.split()[0] for row in rows] == [*NAMES, 'joint', 'cycle']
    assert len({len(row.rstrip()) <= len(head) for row in rows}) == 1
    assert f'costs {told.break_even:.2f} joint steps' in order
    assert '(decoder, encoder)' in order and shared.startswith('Sharing')
    head, *rows = memory.splitlines()
    assert [row.split()[0] for row in rows] == [*NAMES, 'joint']
    assert max(map(len, memory.splitlines())) <= 80


def test_memory_is_what_the_compiler_plans(told):
    """Both weights and the encoder's moments; joint Adam holds moments of all."""
    weight = 4 * 256 * 128
    assert told.num_params == 2 * 256 * 128
    assert told.memory.held == pytest.approx(4 * weight, abs=64)
    assert told.joint_adam.held == pytest.approx(6 * weight, abs=64)
    # Both gradients and the data, and little else.
    assert told.joint_adam.peak >= told.joint_adam.held + 2 * weight + 4 * 256 * 256
    assert told.joint_adam.peak > told.memory.held


@pytest.mark.parametrize('order, words', [((), 'empty'), (('critic',), "'critic'")])
def test_a_bad_order_is_an_error(order, words):
    with pytest.raises(ValueError, match=words):
        cdgm.explain(descent(), PARAMS, BATCH, order)
