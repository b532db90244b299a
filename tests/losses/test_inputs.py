import jax.numpy as jnp
import pytest

from cdgm.losses.inputs import check_equal_shapes, widen


@pytest.mark.parametrize('narrow, wide', [
    ('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'float32'),
    ('float64', 'float64'), ('uint8', 'float32'), ('bool', 'float32')])
def test_widens_to_at_least_float32(narrow, wide):
    assert widen(jnp.ones(2, narrow)).dtype == wide


def test_names_the_shapes_that_differ():
    check_equal_shapes(logits=jnp.ones((2, 3)), x=jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r'logits \(2, 3\), x \(2, 1\)'):
        check_equal_shapes(logits=jnp.ones((2, 3)), x=jnp.ones((2, 1)))
