"""Switching: `lax.switch` itself is the oracle, for any mixture of leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cdgm.switching import switch

# Two alike, one of another shape, one of another width, one that is a key.
TREE = {'a': jnp.arange(3.), 'b': jnp.asarray([-0., jnp.nan, 2.]),
        'c': jnp.ones((2, 3)), 'd': jnp.ones(3, jnp.float32),
        'k': jax.random.key(3), 'n': jnp.int32(7)}


def writes(names):
    """A branch that changes these leaves, and which they are."""
    def branch(tree, amount):
        new = {name: jax.random.fold_in(leaf, 1) if name == 'k'
               else -leaf * amount.astype(leaf.dtype) for name, leaf in tree.items()}
        changed = {name: new[name] if name in names else leaf
                   for name, leaf in tree.items()}
        return changed, tree['a'].sum() + len(names)
    return branch, {name: name in names for name in TREE}


BRANCHES, CHANGES = zip(*map(writes, ('a', 'b', 'ab', 'cn', 'ad', 'kb', '', 'abcdkn')))


def bits(tree):
    return [np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()
        for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope='module')
def both():
    return jax.jit(lambda index, tree, amount: (
        switch(index, BRANCHES, CHANGES, tree, amount),
        lax.switch(index, BRANCHES, tree, amount)))


@pytest.mark.parametrize('index', range(len(BRANCHES)))
def test_it_is_lax_switch_bit_for_bit(index, both):
    ours, stock = both(index, TREE, jnp.asarray(3.))
    assert bits(ours) == bits(stock)


def test_a_batched_index_chooses_for_each(both):
    index = jnp.arange(len(BRANCHES))
    ours, stock = jax.vmap(both, in_axes=(0, None, None))(index, TREE, jnp.asarray(3.))
    assert bits(ours) == bits(stock)


def test_what_does_not_change_does_not_pass_through():
    """Of alike leaves one leaves the conditional, however many branches there are."""
    tree = {name: jnp.ones(5) for name in 'abcd'}
    branches = [lambda tree, name=name: ({**tree, name: 2 * tree[name]}, jnp.zeros(()))
                for name in tree]
    changes = [{name: name == own for name in tree} for own in tree]
    jaxpr = jax.make_jaxpr(lambda i: switch(i, branches, changes, tree))(jnp.int32(0))
    conditional, = (e for e in jaxpr.eqns if e.primitive.name == 'cond')
    assert sorted(var.aval.shape for var in conditional.outvars) == [(), (5,)]


@pytest.mark.parametrize('of', ['keys', 'empty', 'explicitly sharded'])
def test_slots_are_of_the_whole_type_of_a_leaf(of):
    """Each leaf moves alone; one device is enough for the types to differ."""
    mesh = jax.make_mesh((1,), ('m',), (jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec

    def laid(*axes):
        return jax.device_put(jnp.arange(6.).reshape(2, 3),
                              jax.sharding.NamedSharding(mesh, spec(*axes)))

    keys = jax.random.split(jax.random.key(1), 3)
    tree = {'keys': {'a': keys[0], 'b': keys, 'c': jax.random.key(2, impl='rbg')},
            'empty': {'a': jnp.zeros((0, 3)), 'b': jnp.ones(2), 'c': jnp.zeros((0, 3))},
            'explicitly sharded': {'a': laid(), 'b': laid('m'), 'c': laid(None, 'm')},
            }[of]

    def change(leaf):
        if of != 'keys':
            return 2 * leaf
        fold = jax.random.fold_in if leaf.ndim == 0 else jax.vmap(
            jax.random.fold_in, (0, None))
        return fold(leaf, 1)

    branches = [lambda tree, own=own: ({**tree, own: change(tree[own])}, None)
                for own in tree]
    changes = [{name: name == own for name in tree} for own in tree]
    run = jax.jit(lambda i, tree: switch(i, branches, changes, tree))
    for index, own in enumerate(tree):
        ours, _ = run(index, tree)
        want = {**tree, own: change(tree[own])}
        assert bits(ours) == bits(want)
        for name in tree:
            ours_is, want_is = jax.typeof(ours[name]), jax.typeof(want[name])
            assert ours_is.dtype == want_is.dtype and ours_is.shape == want_is.shape
            assert ours_is.sharding.spec == want_is.sharding.spec


def test_a_leaf_that_changes_its_type_is_an_error():
    def wide(tree):
        return {'a': tree['a'].astype(float)}, None

    with pytest.raises(TypeError):
        jax.eval_shape(lambda i: switch(
            i, [wide, lambda tree: (tree, None)], [{'a': True}, {'a': False}],
            {'a': jnp.ones(2, jnp.float32)}), jnp.int32(0))
