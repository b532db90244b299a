"""Guarantee 4: every leaf belongs to exactly one block, and errors name both."""

import dataclasses
import enum
import re
from collections import OrderedDict, namedtuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx, struct
from flax.core import FrozenDict

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
    ([], [False, False, False]),
    (set(), [False, False, False]),
    ({'decoder/w', 'encoder/b'}, [True, True, False]),
    ({'encoder': 0, 'unused': 0}.keys(), [False, True, True]),
    (('decoder', lambda path: path.endswith('/b')), [True, True, False]),
    ('', [True, True, True]),
    ([''], [True, True, True]),
    (True, [True, True, True]),
    (np.False_, [False, False, False]),
    ({'encoder': True, 'decoder': False}, [False, True, True]),
    ({'encoder': {'w': np.True_, 'b': False}, 'decoder': True}, [True, False, True]),
    (FrozenDict({'encoder': {'w': False, 'b': True}, 'decoder': False}),
     [False, True, False]),
    (lambda path: re.match('enc.*w', path), [False, False, True]),
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
    (jax.nn.relu, 'custom_jvp'), (jax.random.key(0), 'key'),
])
def test_a_leaf_that_is_no_floating_array_is_named(leaf, kind):
    params = {'w': np.ones(2), 'other': leaf}
    raises(TypeError, ["'other' is", kind, 'eqx.partition'], blocks.label, params,
           {'all': ''})


@pytest.mark.parametrize('leaf', [1.0, np.float32(1), jnp.ones(2, jnp.bfloat16), 1j,
                                  np.ones(2, np.complex64), np.zeros((0, 3))])
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


@pytest.mark.thorough
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


def test_a_mask_marks_what_optax_masked_would_train():
    """Oracle: `optax.masked` by the same mask, over a list, a tuple and a prefix."""
    one = np.ones(1)
    params = {'layers': [one, one], 'pair': ({'w': one}, one)}
    # Of bools, and of what a comparison of arrays gives.
    mask = {'layers': [True, np.bool_(False)],
            'pair': (jnp.array(False), np.array(True))}
    tx = optax.masked(optax.scale(2.0), mask)
    doubled, _ = tx.update(params, tx.init(params))
    rest = jax.tree.map(lambda mark: not mark, mask)
    labels = blocks.label(params, {'on': mask, 'off': rest})
    assert jax.tree.map(lambda x: 'on' if x[0] == 2 else 'off', doubled) == labels
    assert set(jax.tree.leaves(labels)) == {'on', 'off'}


def test_a_mask_of_bools_in_a_list_is_for_a_list():
    params = [np.ones(1), np.ones(1)]
    assert blocks.label(params, {'a': [True, False], 'b': '1'}) == ['a', 'b']


def test_a_mask_of_an_equinox_module_is_no_predicate_though_it_can_be_called():
    model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    mask = eqx.tree_at(lambda m: (m.weight, m.bias), model, (True, False))
    labels = blocks.label(model, {'a': mask, 'b': 'bias'})
    assert (labels.weight, labels.bias) == ('a', 'b')


def test_what_a_mask_marks_false_is_owned_by_no_block_and_said_to_be_frozen_how():
    raises(ValueError, ["no block owns 1 leaf: 'decoder/w'", 'no schedule visits',
                        'freeze'],
           blocks.label, TWO, {'a': {'encoder': True, 'decoder': False}})


@pytest.mark.parametrize('mask, words', [
    ({'encoder': True}, ["nothing of 'decoder/w'"]),
    ({'encoder': True, 'decoder': {'v': True}}, ["'decoder/w'", "'decoder/v'"]),
    ({'encoder': True, 'decoder': None}, ["nothing of 'decoder/w'"]),
    ([True, False], ["'encoder/b'", "'0', '1'"]),
    ({}, ["'encoder/b'", 'none']),
])
def test_a_mask_must_fit(mask, words):
    raises(ValueError, ["mask of block 'a' does not fit", *words], blocks.label, TWO,
           {'a': mask, 'b': 'decoder'})


@pytest.mark.parametrize('selector, words', [
    (3, 'is 3'), (1.5, 'is 1.5'), (None, 'is None'), (b'encoder', "is b'encoder'"),
    (np.ones(2, bool), 'is array'), ({'encoder': 'decoder'}, 'is {'),
    ({'encoder': True, 'decoder': 'x'}, 'is {'), (['encoder', True], 'is ['),
    (['encoder', None], 'is None'), (iter(['encoder']), 'iterator'),
    (lambda params: {'encoder': True}, 'returns {'),
    (lambda params: jax.tree.map(lambda x: x.ndim > 1, params), 'AttributeError'),
])
def test_what_is_no_selector_is_refused(selector, words):
    raises(TypeError, ["block 'a'", words], blocks.label, TWO,
           {'a': selector, 'b': 'decoder'})


def test_a_block_of_an_empty_sequence_owns_no_leaf():
    raises(ValueError, ["'b' owns no leaf"], blocks.label, TWO, {'a': '', 'b': ()})


@dataclasses.dataclass
class Named:
    encoder: object
    decoder: object


jax.tree_util.register_dataclass(Named, ['encoder', 'decoder'], [])
Pair = namedtuple('Pair', 'encoder decoder')
SIDE = enum.Enum('Side', 'LEFT RIGHT')


@pytest.mark.parametrize('labels', [
    {'encoder': 'a', 'decoder': {'w': 'b'}},
    OrderedDict(decoder='b', encoder='a'),
    FrozenDict({'encoder': {'w': 'a', 'b': 'a'}, 'decoder': 'b'}),
    Named('a', 'b'), Pair('a', 'b'), Pair({'w': 'a', 'b': 'a'}, 'b'),
])
@pytest.mark.parametrize('cast', [
    dict, FrozenDict, lambda tree: OrderedDict(sorted(tree.items())[::-1]),
    lambda tree: Named(**tree), lambda tree: Pair(**tree), nnx.State,
])
def test_labels_are_matched_by_path_whatever_holds_them(labels, cast):
    """Oracle: plain dicts on both sides; `cast` keeps the keys."""
    tree = cast({'encoder': {'w': np.ones(2), 'b': np.ones(1)},
                 'decoder': {'w': np.ones(2)}})
    spread = blocks.spread(labels, tree)
    assert jax.tree.structure(spread) == jax.tree.structure(tree)
    named = {blocks.leaf_path(path): name for path, name
             in jax.tree_util.tree_leaves_with_path(spread)}
    assert named == {'encoder/w': 'a', 'encoder/b': 'a', 'decoder/w': 'b'}


@pytest.mark.parametrize('a, b', [(1, 2), (SIDE.LEFT, SIDE.RIGHT)])
def test_names_need_not_be_strings(a, b):
    tree = FrozenDict({'x': np.ones(1), 'y': np.ones(1)})
    labels = blocks.spread({'x': a, 'y': b}, tree)
    assert labels == FrozenDict({'x': a, 'y': b})
    assert blocks.split(tree, labels, a)[0]['y'] == optax.MaskedNode()


def test_labels_may_name_a_leaf_that_a_mask_around_hides():
    tree = FrozenDict({'x': np.ones(1), 'y': optax.MaskedNode()})
    assert blocks.spread({'x': 'a', 'y': 'b'}, tree) == FrozenDict(
        {'x': 'a', 'y': optax.MaskedNode()})


def test_spread_errors_name_the_containers():
    raises(ValueError, ['(dict)', '(FrozenDict', "labels without a leaf are 'z'"],
           blocks.spread, {'x': 'a', 'z': 'b'}, FrozenDict({'x': np.ones(1)}))
    raises(ValueError, ['(tuple)', '(Pair)', "'encoder', 'decoder'", "'0', '1'"],
           blocks.spread, ('a', 'b'), Pair(np.ones(1), np.ones(1)))


@struct.dataclass
class Checked:
    enc: object
    dec: object

    def __post_init__(self):
        if self.enc.shape[1] != self.dec.shape[0]:
            raise ValueError('enc and dec do not fit')


@struct.dataclass
class NoHoles:
    enc: object
    dec: object

    def __post_init__(self):
        if isinstance(self.enc, optax.MaskedNode):
            raise ValueError('two\nlines')


def test_a_class_that_refuses_other_leaves_is_named():
    tree = {'net': Checked(np.ones((4, 2)), np.ones((2, 4))), 'other': np.ones(1)}
    raises(TypeError, ['class Checked', '__post_init__', "no attribute 'shape'"],
           blocks.label, tree, {'all': ''})


def test_a_class_that_refuses_holes_only_is_named_too():
    tree = (np.ones(1), NoHoles(np.ones(1), np.ones(1)))
    labels = blocks.label(tree, {'a': '0', 'b': '1'})
    raises(TypeError, ['class NoHoles', 'ValueError: two)'], blocks.split, tree, labels,
           'a')
