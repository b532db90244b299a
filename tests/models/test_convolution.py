import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cdgm.models import Conv

RNG = np.random.default_rng(20)


def pair(strides, kernel_size=(3, 3)):
    """This library's convolution and flax's."""
    return (Conv(3, kernel_size, strides),
            nn.Conv(3, kernel_size, (strides, strides), padding='SAME'))


def gradients(module):
    """(params, x) -> (scalar that weighs the outputs apart, output), gradients."""
    def value(params, x):
        y = module.apply(params, x)
        return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)), y
    return jax.value_and_grad(value, (0, 1), has_aux=True)


@pytest.mark.parametrize('shape, strides, kernel_size', [
    ((2, 7, 8, 2), 1, (3, 3)), ((2, 7, 8, 2), 2, (3, 3)), ((2, 1, 2, 1), 2, (3, 3)),
    ((2, 9, 6, 2), 2, (5, 2))])
def test_equals_flax_in_value_and_gradient(shape, strides, kernel_size, fill):
    ours, theirs = pair(strides, kernel_size)
    x = RNG.normal(size=shape)
    params = fill(lambda key: theirs.init(key, x))
    got, expected = jax.jit(
        lambda *a: (gradients(ours)(*a), gradients(theirs)(*a)))(params, x)
    chex.assert_trees_all_close(got, expected, rtol=1e-12, atol=1e-12)


def test_parameters_are_those_of_flax_to_the_bit(key):
    class Net(nn.Module):
        conv: type

        @nn.compact
        def __call__(self, x):
            return self.conv(5, (3, 3), strides=2)(x)

    x = np.zeros((1, 8, 8, 2), 'float32')
    ours, theirs = jax.jit(lambda: [Net(c).init(key, x) for c in (Conv, nn.Conv)])()
    chex.assert_trees_all_equal(ours, theirs)
    chex.assert_trees_all_equal_dtypes(ours, theirs)
    assert ours['params']['Conv_0']['kernel'].dtype == jnp.float32


def descend(module):
    """Gradient descent on three seeds at once, scanned over minibatches."""
    def step(params, x):
        grads, _ = gradients(module)(params, x)[1]
        return jax.tree.map(lambda leaf, grad: leaf - 1e-3 * grad, params, grads), None
    return jax.jit(jax.vmap(lambda params, xs: jax.lax.scan(step, params, xs)[0]))


@pytest.fixture
def seeds(fill):
    """Parameters of three seeds, and four minibatches for each."""
    x = RNG.normal(size=(3, 4, 2, 7, 8, 1))
    return fill(lambda key: jax.vmap(lambda x: pair(2)[1].init(key, x))(x[:, 0])), x


def test_equals_flax_over_seeds_inside_a_loop(seeds):
    params, x = seeds
    ours, theirs = (descend(module)(params, x) for module in pair(2))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12)
    assert np.abs(ours['params']['kernel'] - params['params']['kernel']).max() > 1e-3


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='reads the CPU program')
def test_the_compiled_program_holds_no_conditional_and_no_convolution(seeds):
    ours, theirs = (descend(module).lower(*seeds).compile().as_text()
                    for module in pair(2))
    assert ' conditional(' not in ours and ' convolution(' not in ours
    assert ' convolution(' in theirs  # that is how it would be written


def test_bfloat16_stays_bfloat16(key):
    x = jnp.ones((1, 4, 4, 1), 'bfloat16')
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, 'bfloat16'),
        jax.eval_shape(Conv(3).init, key, x))
    assert jax.eval_shape(Conv(3).apply, params, x).dtype == jnp.bfloat16


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_other_platforms_are_given_the_plain_convolution(platform, fill):
    x = np.ones((2, 4, 4, 1))
    params = fill(lambda key: Conv(3).init(key, x))
    lowered = jax.jit(Conv(3).apply).trace(params, x).lower(
        lowering_platforms=(platform,)).as_text()
    assert 'stablehlo.convolution' in lowered
    assert 'stablehlo.concatenate' not in lowered
