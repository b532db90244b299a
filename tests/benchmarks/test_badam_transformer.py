"""The peer is the same network, and BAdam moves one layer of it at a time."""

import jax
import numpy as np
import pytest

from benchmarks import memory, problems, resident

SIZES = {'width': 16, 'context': 8, 'vocabulary': 11}
DEPTH = 12  # 'layers.1.' must not be taken for the start of 'layers.11.'


def test_what_is_missing_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setattr(memory.importlib.util, 'find_spec',
                        lambda name: name != 'badam' or None)
    assert memory.missing() == 'badam'
    assert memory.peer_programs(2) == {}
    assert '.[bench]' in memory.HOW.format(memory.missing())


@pytest.fixture
def peer():
    if memory.missing():
        pytest.skip(memory.HOW.format(memory.missing()))
    from benchmarks import badam_transformer
    return badam_transformer


def filled(net, params):
    """The same numbers in PyTorch's network."""
    import torch
    layers = params['layers']
    kinds = {'attention_norm': layers['attention']['norm'],
             'qkv': layers['attention']['qkv'], 'out': layers['attention']['out'],
             'mlp_norm': layers['mlp']['norm'], 'up': layers['mlp']['up'],
             'down': layers['mlp']['down']}
    state = {'token.weight': params['embedding']['token'],
             'position.weight': params['embedding']['position'],
             'norm.weight': params['head']['norm']}
    state |= {f'layers.{i}.{kind}.weight': leaf[i].T for kind, leaf in kinds.items()
              for i in range(len(leaf))}
    net.load_state_dict({name: torch.tensor(np.asarray(leaf, np.float32))
                         for name, leaf in state.items()})
    return net


def test_the_networks_are_one(peer, key):
    import torch
    model = problems.transformer(DEPTH, **SIZES).model
    params = jax.tree.map(lambda x: 3 * x, model.init(key))
    tokens = resident.batches(SIZES['context'], SIZES['vocabulary'])[0, :, :-1]
    net = filled(peer.Transformer(DEPTH, **SIZES), params)
    with torch.no_grad():
        theirs = net(torch.as_tensor(tokens, dtype=torch.int64)).numpy()
    np.testing.assert_allclose(model.logits(params, tokens), theirs, rtol=1e-3,
                               atol=1e-4)


def test_badam_moves_one_layer_a_visit(peer):
    net = peer.Transformer(DEPTH, **SIZES)
    rule = peer.optimiser(net, 2)
    batches = resident.batches(SIZES['context'], SIZES['vocabulary'])
    # Its first visit is one step short.
    for count, layer in (1, 0), (2, 1), (2, 2):
        before = {name: param.detach().clone()
                  for name, param in net.named_parameters()}
        peer.steps(net, rule, batches, count)()
        moved = {name for name, param in net.named_parameters()
                 if (param != before[name]).any()}
        assert moved == {name for name in before if name.startswith(f'layers.{layer}.')}


@pytest.mark.parametrize('way', [way for way in resident.WAYS if 'BAdam' in way])
def test_what_badam_holds_at_its_peak_is_measured(peer, way):
    found = resident.megabytes(way, 2, **SIZES)
    if found is None:
        pytest.skip('no high-water mark on this system')
    assert 0 < found < 1e3
