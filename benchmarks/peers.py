"""The same training in cdgm and in what people use: PyTorch, BAdam, jaxopt.

    python -m benchmarks.peers [--quick]

The extra `bench` brings the peers; without one its rows say how to get it. Every peer
is used as its own documentation does, with as many threads as there are cores.
"""

import contextlib
import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import measure, problems, sweep_cost
from benchmarks.measure import Bar, Program

HOW = "pip install -e '.[bench]'"
RUN = 20  # steps of a run


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    tables, bars, missing = {}, [], []
    for title, ours, theirs, limits in (
            ('VAE, one alternating step (both blocks in turn)', vae, 'torch_vae', 0.5),
            ('GAN, one iteration (discriminator, generator)', gan, 'torch_gan', 0.75),
            ('chain of 16 layers of 512, a step of a visit of 5', chain, 'badam', 0.3),
            ('lasso, 1000 x 50, an epoch over the coordinates', lasso, 'jaxopt', None)):
        programs = ours()
        first = next(iter(programs))
        try:
            programs.update(PEERS[theirs]())
        except ImportError as error:
            missing.append(f'{title}: no {error.name}; {HOW}')
        rows = tables[title] = measure.measure(programs, args.rounds)
        ms = measure.milliseconds(rows)
        peer = [name for name in programs if name.startswith(('PyTorch', 'BAdam'))]
        if peer and limits:
            bars.append(Bar(f'{first} against {peer[0]}', ms[first] / ms[peer[0]],
                            limits))
    measure.finish('peers', tables, bars, args)
    for line in missing:
        print(f'  {line}')


def _scanned(problem: problems.Problem, order: tuple[str, ...]) -> Program:
    descent = sweep_cost.descent_of(problem)

    def run(state):
        return lax.scan(lambda state, _: (descent.cycle(
            state, problem.batch, problem.key, order)[0], None), state, None, RUN)[0]

    return measure.program(run, descent.init(problem.params), steps=RUN, count=False)


def _alternating(problem: problems.Problem, order: tuple[str, ...]) -> Program:
    """One block a step, fresh noise at each: nothing is shared between the steps."""
    descent = sweep_cost.descent_of(problem)

    def run(state):
        def both(state, key):
            for i, name in enumerate(order):
                state, _ = descent.step(state, problem.batch,
                                        jax.random.fold_in(key, i), name)
            return state, None
        return lax.scan(both, state, jax.random.split(problem.key, RUN))[0]

    return measure.program(run, descent.init(problem.params), steps=RUN, count=False)


def vae() -> dict[str, Program]:
    """Encoder and decoder in turn."""
    problem, order = problems.vae(), ('decoder', 'encoder')
    return {'cdgm, fresh noise': _alternating(problem, order),
            'cdgm, one noise': _scanned(problem, order)}


def gan() -> dict[str, Program]:
    """Discriminator and generator in turn."""
    problem, order = problems.gan(), ('discriminator', 'generator')
    return {'cdgm, fresh noise': _alternating(problem, order),
            'cdgm, one noise': _scanned(problem, order)}


def chain() -> dict[str, Program]:
    """Layers in turn."""
    problem = problems.chain()
    return {'cdgm, visits on one minibatch': sweep_cost.visited(problem, shared=True),
            'cdgm, stacked layers': sweep_cost.visited_by_index(problem),
            'joint: optax adam': sweep_cost.joint(problem)}


def _regression():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 50)).astype(np.float32)
    y = x @ rng.standard_normal(50).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(y)


def lasso() -> dict[str, Program]:
    """Least squares with an L1 penalty, one coordinate after another."""
    x, y = _regression()
    step = len(x) / jnp.sum(jnp.square(x), axis=0)  # 1 / L_j of the mean

    def epoch(state):
        def coordinate(j, state):
            weights, residual = state
            new = weights[j] - step[j] * (x[:, j] @ residual) / len(x)
            new = jnp.sign(new) * jnp.maximum(jnp.abs(new) - step[j] * 0.01, 0)
            residual = residual + x[:, j] * (new - weights[j])
            return weights.at[j].set(new), residual
        return lax.fori_loop(0, x.shape[1], coordinate, state)

    return {'jax, closed form by hand': measure.program(
        epoch, (jnp.zeros(x.shape[1]), -y), count=False)}


def jaxopt_lasso() -> dict[str, Program]:
    """jaxopt's block coordinate descent; its step is 1000 times too small here."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it is no longer maintained, and says so
        import jaxopt
        from jaxopt import objective, prox
        solver = jaxopt.BlockCoordinateDescent(objective.least_squares, prox.prox_lasso)
    data = _regression()
    params = jnp.zeros(data[0].shape[1])
    state = solver.init_state(params, 0.01, data)
    return {'jaxopt BlockCoordinateDescent': measure.program(
        lambda carry: tuple(solver.update(*carry, 0.01, data)), (params, state),
        count=False, donate=False)}


def _torch():
    import torch
    torch.set_num_threads(measure.cores())
    torch.manual_seed(0)
    return torch


def _toggled(players, losses, **adam):
    """Alternate with `requires_grad` toggled, as PyTorch is used for it."""
    torch = _torch()
    rules = {name: torch.optim.Adam(net.parameters(), **adam)
             for name, net in players.items()}

    def run():
        for _ in range(RUN):
            for name, rule in rules.items():
                for other, net in players.items():
                    net.requires_grad_(other == name)
                rule.zero_grad(set_to_none=True)
                losses[name]().backward()
                rule.step()

    return Program(run, RUN)


def torch_vae() -> dict[str, Program]:
    """The reference VAE in PyTorch."""
    torch = _torch()
    nn = torch.nn
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.LeakyReLU(0.01),
                         nn.Linear(128, 40))
    decoder = nn.Sequential(nn.Linear(20, 128), nn.LeakyReLU(0.01),
                            nn.Linear(128, 784))
    batch = (torch.rand(problems.VAE_BATCH, 784) < 0.3).float()

    def loss():
        mean, logvar = body(batch).chunk(2, dim=-1)
        latent = mean + torch.exp(logvar / 2) * torch.randn_like(mean)
        nll = nn.functional.binary_cross_entropy_with_logits(
            decoder(latent), batch, reduction='sum')
        kl = (mean ** 2 + torch.expm1(logvar) - logvar).sum() / 2
        return (nll + kl) / len(batch)

    return {'PyTorch, requires_grad toggled': _toggled(
        {'decoder': decoder, 'encoder': body}, {'decoder': loss, 'encoder': loss},
        lr=1e-3)}


def torch_gan() -> dict[str, Program]:
    """The reference GAN in PyTorch."""
    torch = _torch()
    nn = torch.nn
    slope, batch = 0.2, torch.rand(problems.GAN_BATCH, 1, 28, 28)
    widths = (100, 128, 256, 512, 1024)
    generator = nn.Sequential(
        *(part for a, b in zip(widths, widths[1:])
          for part in (nn.Linear(a, b), nn.LeakyReLU(slope))),
        nn.Linear(1024, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)))
    discriminator = nn.Sequential(
        *(part for a, b in zip((1, 64, 128), (64, 128, 128))
          for part in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.LeakyReLU(slope))),
        nn.Flatten(), nn.Linear(128 * 4 * 4, 1))
    softplus = nn.functional.softplus

    def fakes():
        return generator(torch.randn(len(batch), 100))

    def discriminator_loss():
        with torch.no_grad():
            images = fakes()
        return (softplus(-discriminator(batch)).mean()
                + softplus(discriminator(images)).mean())

    def generator_loss():
        return softplus(-discriminator(fakes())).mean()

    return {'PyTorch, requires_grad toggled': _toggled(
        {'discriminator': discriminator, 'generator': generator},
        {'discriminator': discriminator_loss, 'generator': generator_loss}, lr=1e-3)}


def badam_chain() -> dict[str, Program]:
    """BAdam, and PyTorch's Adam on all layers; every step has the same minibatch."""
    torch = _torch()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from badam import BlockOptimizer
    nn = torch.nn

    def program(blocks: bool):
        # BAdam looks for a prefix anywhere in a name: '0.' is in '10.weight' too.
        names = [f'layer{2 * i}' for i in range(problems.LAYERS)]
        net = nn.Sequential(*(part for _ in names for part in (
            nn.Linear(problems.WIDTH, problems.WIDTH), nn.Tanh())))
        x, y = torch.randn(2, problems.CHAIN_BATCH, problems.WIDTH)
        rule = torch.optim.Adam(net.parameters(), lr=1e-3)
        if blocks:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # it expects half precision
                rule = BlockOptimizer(
                    rule, [(f'layer{name}', param) for name, param in
                           net.named_parameters()], verbose=0,
                    block_prefix_list=[[f'{name}.'] for name in names],
                    switch_block_every=sweep_cost.STEPS, switch_mode='ascending')

        def run():
            with contextlib.redirect_stdout(io.StringIO()):  # BAdam prints each visit
                for _ in range(sweep_cost.STEPS * problems.LAYERS):
                    rule.zero_grad(set_to_none=True)
                    nn.functional.mse_loss(net(x), y).backward()
                    rule.step()

        return Program(run, sweep_cost.STEPS * problems.LAYERS)

    return {'BAdam': program(True), 'torch adam, all layers': program(False)}


PEERS = {'torch_vae': torch_vae, 'torch_gan': torch_gan, 'badam': badam_chain,
         'jaxopt': jaxopt_lasso}

if __name__ == '__main__':
    main()
