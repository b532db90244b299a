"""A gradient through training: d (loss after training) / d (learning rate).

A descent is made of pure functions, so JAX differentiates through its steps like
through anything else. The learning rate of each block is an argument of the program;
the rest is a scan over cycles. Prints the gradient beside finite differences, then the
loss before and after a few steps of descent on the learning rates themselves.
"""

import jax
import jax.numpy as jnp
import optax

import cdgm

jax.config.update('jax_enable_x64', True)  # finite differences need the digits

CYCLES = 20
ORDER = ('decoder', 'encoder')

keys = jax.random.split(jax.random.key(0), 3)
batch = jax.random.normal(keys[0], (64, 8)) @ jnp.diag(jnp.linspace(1, 0.1, 8))
start = {'encoder': jax.random.normal(keys[1], (8, 2)) / 4,
         'decoder': jax.random.normal(keys[2], (2, 8)) / 4}


def loss_fn(params, batch, key):
    decoded = batch @ params['encoder'] @ params['decoder']
    return jnp.mean(jnp.sum((decoded - batch) ** 2, 1)), None


def final_loss(log_rates):
    """The loss after `CYCLES` cycles by gradient descent at the rates exp(log_rates).

    The blocks are made within the function, so that a rate may be a traced value.
    """
    descent = cdgm.block_descent({
        name: cdgm.Block(name, loss_fn, optax.sgd(jnp.exp(log_rate)))
        for name, log_rate in log_rates.items()})

    def cycle(state, _):
        state, info = descent.cycle(state, batch, None, ORDER)
        return state, info.loss[0]

    state, _ = jax.lax.scan(cycle, descent.init(start), length=CYCLES)
    return loss_fn(state.params, batch, None)[0]


def difference(log_rates, name, width=1e-5):
    """The derivative by central differences."""
    up, down = ({**log_rates, name: log_rates[name] + side} for side in (width, -width))
    return (value(up) - value(down)) / (2 * width)


value = jax.jit(final_loss)
value_and_grad = jax.jit(jax.value_and_grad(final_loss))

log_rates = {'encoder': jnp.log(0.01), 'decoder': jnp.log(0.01)}
before, grads = value_and_grad(log_rates)
for name, grad in grads.items():
    print(f'{name}: gradient {grad:.6f}, differences {difference(log_rates, name):.6f}')

print(f'before: {before:.4f}')
for _ in range(15):
    _, grads = value_and_grad(log_rates)
    log_rates = jax.tree.map(lambda rate, grad: rate - 0.5 * grad, log_rates, grads)
print(f'after: {value(log_rates):.4f}')
