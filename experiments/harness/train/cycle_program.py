"""What a cycle computes, as text: the same text, the same numbers."""

import jax

from experiments.harness.task import Task, TracedInputs


def abstract_state(task: Task, given: TracedInputs):
    """Shapes of one seed's descent state and of a minibatch.

    Args:
      task: what is trained.
      given: of one seed, or what it is like.
    """
    state = jax.eval_shape(
        lambda key, hyper: task.descent(hyper).init(
            task.init(key), task.model_state and task.model_state(key)), *given)
    batch = jax.eval_shape(task.prepare, jax.tree.map(
        lambda x: x[:task.batch_size], task.examples), given.key)
    return state, batch


def cycle_program(task: Task, given: TracedInputs) -> str:
    """Write a step of every block, and what makes a minibatch, as XLA is given them.

    Args:
      task: what is trained.
      given: of one seed, or what it is like.
    """
    state, batch = abstract_state(task, given)
    examples = jax.tree.map(lambda x: x[:task.batch_size], task.examples)

    def steps(state, batch, given, examples):
        descent = task.descent(given.hyper)
        return task.prepare(examples, given.key), [
            descent.step(state, batch, given.key, name) for name in task.blocks]

    with jax.disable_jit(False):  # it is compared under JAX_DISABLE_JIT, too
        return jax.jit(steps).lower(state, batch, given, examples).as_text()
