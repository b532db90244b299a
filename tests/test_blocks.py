"""Guarantee 4: every leaf belongs to exactly one block, and errors name both."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from cdgm import blocks

TWO = {'encoder': {'w': np.ones(2), 'b': np.ones(1)}, 'decoder': {'w': np.ones(2)}}


def raises(error, words, function, *args):
    """The error is one line that holds all the words."""
    with pytest.raises(error) as caught:
        function(*args)
    message = str(caught.value)
    assert '\n' not in message
    for word in words:
        assert word in message


def test_a_name_selects_by_whole_path_segments():
    params = {'layers': [{'w': np.ones(1)} for _ in range(12)]}
    labels = blocks.label(params, {'one': 'layers/1', 'ten': 'layers/10', 'rest': [
        f'layers/{i}' for i in range(12) if i not in (1, 10)]})
    names = [layer['w'] for layer in labels['layers']]
    assert names == ['rest', 'one', *['rest'] * 8, 'ten', 'rest']


@pytest.mark.parametrize('selector, owned', [
    ('', [True, True, True]),
    ('encoder', [False, True, True]),
    ('encoder/w', [False, False, True]),
    ('enc', [False, False, False]),
    (('decoder', 'encoder/b'), [True, True, False]),
    (lambda path: path.endswith('/w'), [True, False, True]),
    ((), [False, False, False]),
])
def test_selectors(selector, owned):
    paths = ['decoder/w', 'encoder/b', 'encoder/w']
    assert [blocks.selects(selector, path) for path in paths] == owned


def test_one_name_owns_a_bare_array():
    assert blocks.label(jnp.ones(3), {'all': ''}) == 'all'


def test_predicates_cut_across_the_tree():
    labels = blocks.label(TWO, {'weights': lambda path: path.endswith('/w'),
                                'biases': lambda path: path.endswith('/b')})
    assert labels == {'encoder': {'w': 'weights', 'b': 'biases'},
                      'decoder': {'w': 'weights'}}


@pytest.mark.parametrize('selectors, words', [
    ({'a': 'encoder'}, ['no block owns 1 leaf', "'decoder/w'", "a='encoder'"]),
    ({}, ['no block owns 3 leaves', "'decoder/w', 'encoder/b', 'encoder/w'"]),
    ({'a': '', 'b': 'encoder/w'}, ["'encoder/w'", "blocks 'a', 'b'", 'overlap']),
    ({'a': '', 'b': lambda path: False}, ["'b' owns no leaf", '<lambda>', 'encoder/b']),
    ({'a': '', 'b': 'encoder/'}, ["'b' owns no leaf", "'encoder/'"]),
])
def test_ownership_errors_name_the_leaves_and_the_blocks(selectors, words):
    raises(ValueError, words, blocks.label, TWO, selectors)


def test_errors_stay_short():
    params = {f'w{i:02}': np.ones(1) for i in range(20)}
    raises(ValueError, ['20 leaves', "'w07', … (12 more)"], blocks.label, params, {})


def test_empty_parameters_are_an_error():
    raises(ValueError, ["'a' owns no leaf", 'none'], blocks.label, {}, {'a': ''})


@pytest.mark.parametrize('leaf, kind', [
    (np.arange(3), 'int64'), (np.ones(3, bool), 'bool'), (3, 'int'), ('relu', 'str'),
    (jax.nn.relu, 'custom_jvp'), (1j, 'complex'), (jax.random.key(0), 'key'),
])
def test_a_leaf_that_is_no_floating_array_is_named(leaf, kind):
    params = {'w': np.ones(2), 'other': leaf}
    raises(TypeError, ["'other' is", kind, 'eqx.partition'], blocks.label, params,
           {'all': ''})


@pytest.mark.parametrize('leaf', [1.0, np.float32(1), jnp.ones(2, jnp.bfloat16)])
def test_floating_leaves_of_every_kind_are_taken(leaf):
    assert blocks.label({'w': leaf}, {'all': ''}) == {'w': 'all'}


def random_tree(rng, depth=3):
    """A tree of dicts, lists, tuples, empty subtrees and arrays."""
    kind = rng.integers(5) if depth else 4
    if kind == 4:
        return rng.normal(size=rng.integers(3, size=2))
    parts = [random_tree(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    if kind == 0:
        return {f'k{i}': part for i, part in enumerate(parts)}
    if kind == 1:
        return parts
    return tuple(parts) if kind == 2 else None


def test_merge_undoes_split_on_random_trees():
    rng = np.random.default_rng(0)
    for _ in range(100):
        tree = {'first': np.ones(1), 'rest': random_tree(rng)}
        labels = jax.tree.map(lambda _: str(rng.integers(3)), tree)
        for name in '012':
            active, frozen = blocks.split(tree, labels, name)
            merged = blocks.merge(active, frozen)
            assert jax.tree.structure(merged) == jax.tree.structure(tree)
            same = jax.tree.map(lambda a, b: a is b, merged, tree)
            assert all(jax.tree.leaves(same))
            sizes = [len(jax.tree.leaves(t)) for t in (active, frozen, tree)]
            assert sizes[0] + sizes[1] == sizes[2]
            assert sizes[0] == jax.tree.leaves(labels).count(name)


def test_an_equinox_module_keeps_its_missing_leaves():
    model = eqx.nn.Linear(2, 3, use_bias=False, key=jax.random.key(0))
    params, _ = eqx.partition(model, eqx.is_inexact_array)
    labels = blocks.label(params, {'all': ''})
    assert blocks.merge(*blocks.split(params, labels, 'all')).bias is None


def test_spread_errors_name_the_leaves_and_the_labels():
    raises(ValueError, ["without a label are 'decoder/w'", "'decoder/v'"],
           blocks.spread, {'encoder': 'a', 'decoder': {'v': 'b'}}, TWO)


@pytest.mark.parametrize('block', ['b', 1, np.int64(1)])
def test_a_static_block_goes_by_name_or_index(block):
    assert blocks.block_name(block, ('a', 'b')) == 'b'


@pytest.mark.parametrize('block', ['c', 2, -1, np.int64(7)])
def test_an_unknown_static_block_is_an_error(block):
    raises(ValueError, [f'{block}', "'a', 'b'"], blocks.block_name, block, ('a', 'b'))


def test_none_and_other_holes_of_a_tree_are_left_alone():
    """`None` and the holes of an `optax.masked` around are the user's, not a leaf's."""
    tree = {'a': np.ones(1), 'b': None, 'c': (optax.MaskedNode(), np.ones(2))}
    active, frozen = blocks.split(tree, {'a': 'x', 'b': None,
                                         'c': (optax.MaskedNode(), 'y')}, 'x')
    assert active == {'a': tree['a'], 'b': None, 'c': (optax.MaskedNode(),) * 2}
    assert frozen['a'] == optax.MaskedNode() and frozen['b'] is None
    merged = blocks.merge(active, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(tree)
    assert merged['a'] is tree['a'] and merged['c'][1] is tree['c'][1]
    # An update of `None` (optax: leave this leaf) is no hole to fill from elsewhere.
    assert blocks.merge({'a': None}, {'a': optax.MaskedNode()}) == {'a': None}


def test_halves_are_differentiated_and_take_the_transformations_that_none_breaks():
    """A `None` among the leaves breaks `optax.contrib.galore`, a hole does not."""
    tree = {'a': jnp.ones((4, 3)), 'b': jnp.full((2, 2), 3.0)}
    active, frozen = blocks.split(tree, {'a': 'x', 'b': 'y'}, 'x')
    grads = jax.grad(lambda half: sum(jnp.sum(leaf ** 2) for leaf in jax.tree.leaves(
        blocks.merge(half, frozen))))(active)
    assert grads['b'] == optax.MaskedNode()
    np.testing.assert_array_equal(grads['a'], 2 * np.ones((4, 3)))
    tx = optax.contrib.galore(0.1, rank=2)
    updates, _ = tx.update(grads, tx.init(active), active)
    alone, _ = tx.update({'a': grads['a']}, tx.init({'a': tree['a']}), {'a': tree['a']})
    np.testing.assert_array_equal(updates['a'], alone['a'])
