"""The transformer of `benchmarks.problems` in PyTorch, trained by BAdam's own package.

The same network: pre-norm, causal attention, a tied head, no biases, each layer
checkpointed (`torch.utils.checkpoint`). The layers are BAdam's blocks, in turn, as its
README has it; embedding and head stay, as they do by default. Needs the extra `bench`,
so it is imported where it is used.
"""

import contextlib
import gc
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from badam import BlockOptimizer
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks import measure
from benchmarks.measure import Program

_STDDEV = 0.02


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        """float[B, T, D] -> float[B, T, D]."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(query, key, value,
                                                        is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)),
                                             approximate='tanh'))


class Transformer(nn.Module):
    """int64[B, T] -> logits float[B, T, V]."""

    def __init__(self, depth: int, width: int, *, context: int, vocabulary: int,
                 heads: int = 4):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, param in self.named_parameters():
            if 'norm' not in name:
                nn.init.normal_(param, std=_STDDEV)

    def forward(self, tokens):
        """Every layer is computed anew in the backward pass."""
        x = self.token(tokens) + self.position.weight[None, :tokens.shape[1]]
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return self.norm(x) @ self.token.weight.T


@contextlib.contextmanager
def _silent():
    """BAdam prints each visit, and says that it expects half precision."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def optimiser(net: Transformer, visit: int) -> Any:
    """BAdam: the layers in turn, `visit` steps each, by Adam."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    with _silent():
        return BlockOptimizer(
            adam, list(net.named_parameters()), verbose=0, switch_mode='ascending',
            block_prefix_list=[[f'layers.{i}.'] for i in range(len(net.layers))],
            switch_block_every=visit)


def device() -> str:
    """Where PyTorch would compute: 'cuda' or 'cpu'."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def steps(net: Transformer, rule: Any, batches: Any, count: int) -> Callable[[], None]:
    """Train `count` steps on minibatches [K, B, T + 1], one after another."""
    where = next(net.parameters()).device
    data = [torch.as_tensor(batch, dtype=torch.int64, device=where)
            for batch in batches]

    def run():
        with _silent():
            for number in range(count):
                tokens = data[number % len(data)]
                logits = net(tokens[:, :-1])
                functional.cross_entropy(logits.flatten(0, 1),
                                         tokens[:, 1:].flatten()).backward()
                rule.step()
                rule.zero_grad(set_to_none=True)
        if where.type == 'cuda':
            torch.cuda.synchronize()

    return run


def programs(depth: int, batches: Any, **sizes: int) -> dict[str, Program]:
    """A cycle of BAdam's over the layers, and PyTorch's Adam on all at once.

    Args:
      depth: layers.
      batches: int[K, B, T + 1]; a visit goes over them once.
      **sizes: the other arguments of `Transformer`.
    """
    torch.set_num_threads(measure.cores())
    torch.manual_seed(0)
    visit = len(batches)
    net, joint = (Transformer(depth, **sizes).to(device()) for _ in range(2))
    adam = torch.optim.Adam(joint.parameters(), lr=1e-3)
    cycle = visit * depth
    return {'BAdam': Program(steps(net, optimiser(net, visit), batches, cycle), cycle),
            'PyTorch, joint': Program(steps(joint, adam, batches, visit), visit)}


def held() -> int:
    """Bytes of all tensors that there are, gradients too; storages are counted once."""
    # By its type: `isinstance` would ask lazy modules, which warn.
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    tensors += [x.grad for x in tensors if x.is_leaf and x.grad is not None]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
                for x in tensors}
    return sum(storages.values())
