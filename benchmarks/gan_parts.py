"""Where an iteration of the reference GAN goes: its parts, each measured apart.

    python -m benchmarks.gan_parts [--quick]

    products   every matrix product of the iteration, of the same shapes and order
    patches    what the convolutions' products read, and sums of what they give back
    optimiser  Adam on both nets
    noise      both minibatches of latents
    rest       the iteration without these: activations, biases, losses, copies

All run inside `scan`, as the iteration does. A product costs what XLA's kernel takes
for it, and an iteration cannot be faster than its products: their share of PyTorch's
iteration is the least ratio that any way of writing the losses can reach.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks import measure, peers, problems
from benchmarks.measure import Bar, Program
from cdgm.models import convolution

WIDTHS = (100, 128, 256, 512, 1024, 784)  # of the generator
CHANNELS = (1, 64, 128, 128)  # of the discriminator
SIDES = (28, 14, 7, 4)
KERNEL = 3

# What lies how in a product of [M, K] and [K, N], the gradients' as in the memory.
FORWARD, KERNEL_GRADIENT, INPUT_GRADIENT = 'a b', "a' b", "a b'"
_MULTIPLY = {FORWARD: lambda a, b: a @ b, KERNEL_GRADIENT: lambda a, b: a.T @ b,
             INPUT_GRADIENT: lambda a, b: a @ b.T}


class Layer(NamedTuple):
    """A layer as a product of [rows, inputs] and [inputs, outputs]."""

    rows: int
    inputs: int
    outputs: int


GENERATOR = [Layer(problems.GAN_BATCH, *sizes) for sizes in zip(WIDTHS, WIDTHS[1:])]
DISCRIMINATOR = [*(Layer(problems.GAN_BATCH * side ** 2, KERNEL ** 2 * a, b)
                   for side, a, b in zip(SIDES[1:], CHANNELS, CHANNELS[1:])),
                 Layer(problems.GAN_BATCH, SIDES[-1] ** 2 * CHANNELS[-1], 1)]


def products() -> list[tuple[str, int, int, int]]:
    """(kind, M, K, N) of a discriminator's step, and then of a generator's."""
    seen = [*_forward(DISCRIMINATOR), *_kernel_gradients(DISCRIMINATOR),
            *_input_gradients(DISCRIMINATOR[1:])]
    return [*_forward(GENERATOR), *2 * seen,
            *_forward(GENERATOR), *_forward(DISCRIMINATOR),
            *_input_gradients(DISCRIMINATOR), *_kernel_gradients(GENERATOR),
            *_input_gradients(GENERATOR[1:])]


def _forward(layers):
    return [(FORWARD, rows, inputs, outputs) for rows, inputs, outputs in layers]


def _kernel_gradients(layers):
    return [(KERNEL_GRADIENT, inputs, rows, outputs)
            for rows, inputs, outputs in layers]


def _input_gradients(layers):
    return [(INPUT_GRADIENT, rows, outputs, inputs) for rows, inputs, outputs in layers]


def flops() -> float:
    """Multiplications and additions of all products."""
    return sum(2. * math.prod(shape) for _, *shape in products())


def scanned(parts: list[tuple[Callable[..., Any], Any]], count: float | None = None
            ) -> Program:
    """Run functions of arrays, one after another, in a loop that keeps all of them.

    Args:
      parts: functions and what they are given.
      count: FLOPs of all.
    """
    functions = [function for function, _ in parts]

    def run(state):
        def body(state, _):
            total, given = state
            for function, each in zip(functions, given):
                # Bound to the carry, so that nothing is taken out of the loop or left
                # out of it.
                each, total = lax.optimization_barrier((each, total))
                made, total = lax.optimization_barrier((function(*each), total))
                total += sum(leaf[(0,) * leaf.ndim] for leaf in jax.tree.leaves(made))
            return (total, given), None
        return lax.scan(body, state, None, peers.RUN)[0]

    program = measure.program(run, (jnp.zeros(()), [given for _, given in parts]),
                              steps=peers.RUN, count=False)
    return program._replace(flops=count)


def product_program() -> Program:
    """All products."""
    parts: list[tuple[Callable[..., Any], Any]] = []
    for kind, m, k, n in products():
        first = (k, m) if kind == KERNEL_GRADIENT else (m, k)
        second = (n, k) if kind == INPUT_GRADIENT else (k, n)
        parts.append((_MULTIPLY[kind], (jnp.ones(first), jnp.ones(second))))
    return scanned(parts, flops())


def patch_program() -> Program:
    """The patches that three passes read, and the images that they sum to."""
    parts: list[tuple[Callable[..., Any], Any]] = []
    for layer, (side, channels) in enumerate(zip(SIDES, CHANNELS[:-1])):
        image = jnp.ones((problems.GAN_BATCH, side, side, channels))

        def see(x):
            return convolution.patches_of(x, (KERNEL, KERNEL), 2)

        def unsee(patches, shape=image.shape):
            return jax.linear_transpose(see, jnp.zeros(shape))(patches)[0]

        parts += 3 * [(see, (image,))]
        parts += (3 if layer else 1) * [(unsee, (see(image),))]
    return scanned(parts)


def convolution_programs() -> dict[str, Program]:
    """The second convolution, as it is and as XLA has it, and its kernel's gradient."""
    x = jnp.ones((problems.GAN_BATCH, SIDES[1], SIDES[1], CHANNELS[1]))
    kernel = jnp.ones((KERNEL, KERNEL, *CHANNELS[1:3]))

    def gradient(convolve):
        return lambda x, kernel, y: jax.vjp(partial(convolve, x), kernel)[1](y)

    y = convolution.plain(x, kernel, 2)
    return {f'{name}, {what}': scanned([(function, given)])
            for name, convolve in (
                ('patches', partial(convolution.convolve, strides=2)),
                ('plain', partial(convolution.plain, strides=2)))
            for what, function, given in (
                ('forward', convolve, (x, kernel)),
                ("kernel's gradient", gradient(convolve), (x, kernel, y)))}


def adam_program() -> Program:
    """A step of optax's Adam on each net."""
    tx = optax.adam(1e-3)

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run(state):
        def body(state, _):
            return tuple(step(params, opt, params) for params, opt in state), None
        return lax.scan(body, state, None, peers.RUN)[0]

    nets = problems.gan().params
    return measure.program(run, tuple((nets[name], tx.init(nets[name]))
                                      for name in ('discriminator', 'generator')),
                           steps=peers.RUN, count=False)


def noise_program() -> Program:
    """The latents of both steps."""
    return scanned(2 * [(lambda key: jax.random.normal(
        key, (problems.GAN_BATCH, WIDTHS[0])), (jax.random.key(0),))])


def main() -> None:
    """Measure, print, save."""
    args = measure.arguments(__doc__)
    whole, alone = 'cdgm, fresh noise', 'products'
    programs = {whole: peers.gan()[whole]._replace(flops=flops()),
                alone: product_program(), 'patches': patch_program(),
                'optimiser': adam_program(), 'noise': noise_program()}
    try:
        programs.update(peers.torch_gan())
    except ImportError:
        print(f'  no torch; {peers.HOW}')
    rows = measure.measure(programs, args.rounds)
    ms = measure.milliseconds(rows)
    rows.append({'program': 'rest', 'ms': ms[whole] - sum(
        ms[name] for name in (alone, 'patches', 'optimiser', 'noise'))})
    bars = []
    for peer in (name for name in programs if name.startswith('PyTorch')):
        bars = [Bar('an iteration against PyTorch', ms[whole] / ms[peer], 0.75),
                Bar('its products alone against PyTorch', ms[alone] / ms[peer], 0.75)]
    measure.finish('gan_parts', {
        'GAN, one iteration (discriminator, generator)': rows,
        'its second convolution, in a loop': measure.measure(
            convolution_programs(), max(args.rounds // 4, 1))}, bars, args)


if __name__ == '__main__':
    main()
