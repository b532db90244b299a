"""Lagging inference: does an encoder that catches up keep the latent alive?

    ./launch.sh collapse                                  # 5 seeds, an hour
    ./launch.sh collapse --seeds=1                        # ten minutes
    ./launch.sh collapse --arms=joint --arms=early        # two of the arms

The synthetic sentences of He et al. 2019 by their definition, of which the truth is
known, and their nets with a GRU in place of the LSTM. All arms take as many decoder
steps:

    joint                 both blocks at once, -ELBO
    anneal                the same, beta from --beta_start to 1 in --warm_up epochs
    free_bits             the same, with --free_bits nats a dimension unpunished
    early                 --ratio encoder steps for one decoder step in the first
                          --early_epochs epochs, on fresh minibatches; then joint
    aggressive            He et al.'s rule: the encoder moves until it stops gaining, at
                          most --max_inner times, then the decoder moves once; joint
                          from the first epoch on in which the mutual information on
                          held-out sentences falls
    aggressive+anneal     both

For each: NLL by importance sampling, KL, mutual information against all test sentences,
active units, encoder steps, FLOPs in terms of joint's and seconds. The table grows by
a row an arm and seed, and the same command goes on where it was. Expect joint to
collapse (0.02 nats of information), early encoder steps to hold 0.2, the aggressive
rule 0.4, free bits and annealing 1.0 and 1.5, all at NLLs that are 0.04 to 0.14 nats
better. With --skip, a wire from z to the logits, joint training holds it, too
(docs/vae.md). `truth` is of the generator: its NLL, and the information that z has.

Units    nats a sentence of ten words; FLOPs of single steps.
Source   He et al. 2019 (arXiv:1901.05534), Algorithm 1 and section 4.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from absl import flags

import cdgm
from cdgm import losses, metrics, models
from cdgm.data import synthetic_text
from cdgm.data.synthetic_text import (
    Generator, draw_latents, draw_sentences, log_likelihood)
from cdgm.selection import SelectedDescentState
from experiments.harness import cli, training_flags
from experiments.harness.report import figures
from experiments.harness.report.compare import mean_error
from experiments.harness.report.kept_table import open_table, write_table
from experiments.harness.train.flops import flops_of_program

ARMS = ('joint', 'anneal', 'free_bits', 'early', 'aggressive', 'aggressive+anneal')


class Setting(NamedTuple):
    """How an arm trains."""

    epochs: int
    batch_size: int
    learning_rate: float
    warm_up: float
    beta_start: float
    free_bits: float
    ratio: int
    early_epochs: int
    max_inner: int
    window: int
    cosine: bool


class Pace(NamedTuple):
    """beta and Adam's rate at every decoder step, float32[...] each."""

    beta: Any
    rate: Any

    def at(self, index) -> 'Pace':
        """Those of one epoch, or of one step."""
        return Pace(self.beta[index], self.rate[index])


class Programs(NamedTuple):
    """One epoch of each kind: (state, sentences, key, pace) -> (state, steps).

    Steps are int32[3]: of the encoder alone, of the decoder alone, of both at once.
    """

    joint: Any
    early: Any
    aggressive: Any


class Row(NamedTuple):
    """A line of the table: one arm and seed.

    `watched` is the information on held-out sentences after each epoch.
    """

    arm: str
    seed: int
    nll: float
    nll_error: float
    neg_elbo: float
    kl: float
    mutual_information: float
    active_units: float
    encoder_steps: int
    decoder_steps: int
    relative_flops: float
    seconds: float
    watched: str


def pick(sentences: Any, rows) -> Any:
    """Some of the sentences; they are tokens, or pairs of tokens and lengths."""
    return jax.tree.map(lambda x: x[rows], sentences)


def count(sentences: Any) -> int:
    """How many there are."""
    return len(jax.tree.leaves(sentences)[0])


def nets(model: models.TextVAE) -> dict[str, Any]:
    """The model as losses and metrics want it: the decoder's pass needs the tokens."""
    return {'encode': model.encode, 'decode': lambda params, latent: (params, latent),
            'log_likelihood': lambda decoded, x: model.log_likelihood(*decoded, x)}


def blocks(model: models.TextVAE, pace: Pace, free_bits: float | None) -> cdgm.Descent:
    """Encoder and decoder, which share -ELBO, each clipped by its own norm."""
    loss = partial(losses.neg_elbo, **nets(model), beta=pace.beta, free_bits=free_bits)
    tx = optax.chain(optax.clip_by_global_norm(5.), optax.adam(pace.rate))
    return cdgm.block_descent({
        name: cdgm.Block(name, loss, tx) for name in ('encoder', 'decoder')})


def programs(model: models.TextVAE, setting: Setting, free_bits: float | None
             ) -> Programs:
    """Compile-once programs of an epoch; `pace` has one for each decoder step."""
    descent = partial(blocks, model, free_bits=free_bits)
    rule = cdgm.selection.aggressive(2, inner=0, outer=1, window=setting.window,
                                     max_inner=setting.max_inner)

    def minibatch(sentences, key):
        return pick(sentences, jax.random.randint(
            key, (setting.batch_size,), 0, count(sentences)))

    def joint(state, sentences, key, pace):
        order = jax.random.permutation(key, count(sentences))

        def body(state, index):
            rows = jax.lax.dynamic_slice_in_dim(order, index * setting.batch_size,
                                                setting.batch_size)
            return descent(pace.at(index)).simultaneous(
                state, pick(sentences, rows),
                jax.random.fold_in(key, index))[0], None

        state, _ = jax.lax.scan(body, state, jnp.arange(len(pace.beta)))
        return state, jnp.array([0, 0, len(pace.beta)])

    def early(state, sentences, key, pace):
        order = ('encoder',) * setting.ratio + ('decoder',)

        def body(state, index):
            keys = jax.random.split(jax.random.fold_in(key, index), len(order))
            batches = jax.vmap(partial(minibatch, sentences))(keys)
            return descent(pace.at(index)).cycle(
                state, batches, keys, order, stacked=True)[0], None

        state, _ = jax.lax.scan(body, state, jnp.arange(len(pace.beta)))
        return state, jnp.array([setting.ratio * len(pace.beta), len(pace.beta), 0])

    def aggressive(state, sentences, key, pace, signal):
        """Steps by the rule until the decoder has had an epoch's; it hears at once."""
        def body(carry):
            state, steps = carry
            step_key = jax.random.fold_in(key, steps.sum())
            driven = cdgm.drive(descent(pace.at(steps[1])), rule)
            state, info = driven.step(
                state, minibatch(sentences, step_key), step_key,
                signal=jnp.where(steps.sum() == 0, signal, jnp.nan))
            return state, steps + jax.nn.one_hot(info.block, 3, dtype=steps.dtype)

        return jax.lax.while_loop(lambda carry: carry[1][1] < len(pace.beta), body,
                                  (state, jnp.zeros(3, jnp.int32)))

    return Programs(jax.jit(joint), jax.jit(early), jax.jit(aggressive))


def pace_of(setting: Setting, arm: str, steps: int) -> Pace:
    """The pace of a training, float32[epochs, steps] each."""
    count = np.arange(setting.epochs * steps, dtype=np.float32)
    beta, rate = np.ones_like(count), np.full_like(count, setting.learning_rate)
    if 'anneal' in arm:
        length = max(round(setting.warm_up * steps), 1)
        ramp = np.linspace(setting.beta_start, 1, length)
        beta[:len(ramp)] = ramp[:len(beta)]
    if setting.cosine:
        rate *= optax.cosine_decay_schedule(1., len(count))(count)
    return Pace(*(each.reshape(setting.epochs, steps) for each in (beta, rate)))


def train(arm: str, ours: Programs, model: models.TextVAE, setting: Setting,
          sentences, validation, seed: int) -> tuple[Any, np.ndarray, list[float]]:
    """Train one arm; gives (params, steps as in `Programs`, MI each epoch)."""
    key = jax.random.key(seed)
    steps = count(sentences) // setting.batch_size
    pace = pace_of(setting, arm, steps)
    state = blocks(model, pace.at((0, 0)), None).init(model.init(key))
    rule = cdgm.selection.aggressive(2, inner=0, outer=1, window=setting.window,
                                     max_inner=setting.max_inner).init()
    taken, watched = np.zeros(3, int), [float('nan')]

    @jax.jit
    def information(params):
        mean, logvar = model.encode(params, validation)
        return metrics.mutual_information(mean, logvar, jax.random.key(0),
                                          batch_size=500).mean

    lively = 'aggressive' in arm
    for epoch in range(setting.epochs):
        epoch_key = jax.random.fold_in(key, epoch)
        given = sentences, epoch_key, jax.tree.map(jnp.asarray, pace.at(epoch))
        if lively and len(watched) > 2 and watched[-1] < max(watched[1:-1]):
            lively = False  # what the rule decides too, on hearing the last signal
        if lively:
            (state, rule), counts = ours.aggressive(
                SelectedDescentState(state, rule), *given, watched[-1])
        elif arm == 'early' and epoch < setting.early_epochs:
            state, counts = ours.early(state, *given)
        else:
            state, counts = ours.joint(state, *given)
        taken += np.asarray(counts)
        watched.append(float(information(state.params)))
    return state.params, taken, watched[1:]


def step_costs(model: models.TextVAE, setting: Setting, sentences) -> dict[str, float]:
    """FLOPs of a step of each kind."""
    descent = blocks(model, Pace(1., setting.learning_rate), None)
    state = jax.eval_shape(lambda key: descent.init(model.init(key)), jax.random.key(0))
    given = (state, pick(sentences, slice(setting.batch_size)), jax.random.key(0))
    return {'joint': flops_of_program(descent.simultaneous, *given),
            **{name: flops_of_program(partial(descent.step, block=name), *given)
               for name in ('encoder', 'decoder')}}


def truth(generator: Generator, drawn: int = 40, side: int = 81) -> dict[str, float]:
    """NLL of the generator and information of z, by quadrature over the plane.

    Args:
      generator: of the data.
      drawn: sentences, drawn anew, so that the z of each is known.
      side: of the grid, from -6 to 6 in both directions.
    """
    keys = jax.random.split(jax.random.key(1), 2)
    latent = draw_latents(keys[0], drawn)
    sentences = draw_sentences(generator, latent, keys[1])
    axis = jnp.linspace(-6, 6, side)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    corners = jnp.array([[a, b] for a in (-2., 2.) for b in (-2., 2.)])
    squares = jnp.sum(jnp.square(grid[:, None] - corners[None]), axis=-1)
    log_cell = (jax.nn.logsumexp(-squares / 2, axis=1) - jnp.log(4 * 2 * jnp.pi)
                + 2 * jnp.log(12 / (side - 1)))

    @jax.jit
    def nll(generator, sentence):
        rows = jnp.broadcast_to(sentence[None], (len(grid), len(sentence)))
        return -jax.nn.logsumexp(log_likelihood(generator, rows, grid) + log_cell)

    values = np.asarray([nll(generator, sentence) for sentence in sentences])
    given = -np.asarray(log_likelihood(generator, sentences, latent))
    return {'nll': float(values.mean()), 'information': float((values - given).mean()),
            'nll_error': float(values.std(ddof=1) / len(values) ** 0.5)}


def define_setting_flags(values: flags.FlagValues, **defaults: float) -> None:
    """Add the flags of every study of these arms; the arguments are their defaults."""
    own: dict[str, Any] = {'flag_values': values}
    for name, what in (
            ('hidden', 'Units of both GRUs.'), ('latent', 'Dimensions of z.'),
            ('epochs', 'Of decoder steps.'), ('batch_size', 'Sequences.'),
            ('early_epochs', 'Of early.'), ('seeds', 'How many.'),
            ('nll_samples', 'Importance samples.')):
        flags.DEFINE_integer(name, int(defaults[name]), what, lower_bound=1, **own)
    for name, value, what in (
            ('ratio', 5, 'Encoder steps for one decoder step, of early.'),
            ('max_inner', 30, 'Of aggressive.'), ('window', 10, 'Of aggressive.')):
        flags.DEFINE_integer(name, value, what, lower_bound=1, **own)
    for name, number, what in (
            ('learning_rate', defaults['learning_rate'], "Adam's."),
            ('warm_up', 6., 'Epochs of anneal.'), ('beta_start', 0.1, 'Of anneal.'),
            ('free_bits', defaults['free_bits'], 'Nats a dimension, of free_bits.')):
        flags.DEFINE_float(name, number, what, lower_bound=0., **own)
    flags.DEFINE_boolean('skip', bool(defaults['skip']),
                         'z enters the logits, too, not the decoder\'s state alone.',
                         **own)
    training_flags.define_cosine(values, default=False)


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_multi_enum('arms', list(ARMS), list(ARMS), 'What to train.', **own)
    flags.DEFINE_integer('sentences', 20_000, 'In all; four fifths to train on.',
                         lower_bound=1, **own)
    flags.DEFINE_integer('test_sentences', 1000, 'To evaluate on, at most.',
                         lower_bound=1, **own)
    define_setting_flags(values, hidden=50, latent=2, epochs=15, batch_size=64,
                         early_epochs=4, seeds=5, nll_samples=500, learning_rate=2e-3,
                         free_bits=0.5, skip=False)
    flags.DEFINE_integer('seed', 0, 'The first; the data have seed 0.', **own)
    flags.DEFINE_string('out_dir', 'runs/collapse', 'Folder of table and figure.',
                        **own)


def main(values: flags.FlagValues) -> None:
    """Train every arm and seed; print and write the table as it grows, then draw."""
    data, generator = synthetic_text(values.sentences)
    assert data.validation is not None
    train_set, validation = map(jnp.asarray, (data.train.examples,
                                              data.validation.examples))
    test = jnp.asarray(data.test.examples[:values.test_sentences])
    settings: dict[str, Any] = {name: values[name].value for name in Setting._fields}
    setting = Setting(**settings)
    model = models.text_vae(1000, train_set.shape[1], values.latent, values.hidden,
                            values.hidden, skip=values.skip)
    costs = step_costs(model, setting, train_set)
    file = Path(values.out_dir) / 'collapse.csv'
    rows = open_table(file, Row, made_with(values, 'sentences', 'test_sentences'))
    known = truth(generator)
    print(f'truth: NLL {known["nll"]:.2f} ± {known["nll_error"]:.2f}, information '
          f'{known["information"]:.2f}', flush=True)
    plain = programs(model, setting, None)
    bits = programs(model, setting, values.free_bits)
    for arm, seed in missing(values, rows):
        began = time.perf_counter()
        params, taken, curve = train(
            arm, bits if arm == 'free_bits' else plain, model, setting, train_set,
            validation, seed)
        seconds = time.perf_counter() - began
        rows.append(evaluate(arm, seed, model, params, test, taken, costs, seconds,
                             values.nll_samples, curve))
        print(line(rows[-1]), flush=True)
        write_table(file, Row, rows)
    draw(file.with_suffix('.png'), rows)
    print(*means(rows, nll=2, neg_elbo=2, kl=2, mutual_information=3, active_units=1,
                 encoder_steps=0, relative_flops=2, seconds=0), sep='\n')
    print(f'wrote {file} and .png')


def made_with(values: flags.FlagValues, *names: str) -> dict[str, Any]:
    """The settings of a table's rows: those of every study of these arms, and more."""
    return {name: values[name].value for name in (
        *Setting._fields, 'hidden', 'latent', 'skip', 'nll_samples', *names)}


def means(rows: Sequence[Any], **digits: int) -> list[str]:
    """Fields of a table over its seeds, a line an arm.

    Args:
      rows: of a study of these arms.
      digits: field -> how many to show of it; the NLL's are those of its difference
        from joint's, too, which is taken seed by seed.
    """
    joint = {row.seed: row.nll for row in rows if row.arm == 'joint'}
    lines = []
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == arm]
        paired = [row.nll - joint[row.seed] for row in mine if row.seed in joint]
        said = [f'{name} {mean_error([getattr(row, name) for row in mine], number)}'
                for name, number in digits.items()]
        if paired:
            said.insert(1, f"less joint's {mean_error(paired, digits['nll'])}")
        lines.append(f'{arm}, {len(mine)} seeds: {", ".join(said)}')
    return lines


def missing(values: flags.FlagValues, rows: Sequence[Any]) -> list[tuple[str, int]]:
    """Arms and seeds that have no row yet."""
    there = {(row.arm, row.seed) for row in rows}
    return [(arm, seed) for seed in range(values.seed, values.seed + values.seeds)
            for arm in values.arms if (arm, seed) not in there]


def evaluate(arm: str, seed: int, model: models.TextVAE, params, test, taken, costs,
             seconds: float, num_samples: int, watched: Sequence[float]) -> Row:
    """The row of an arm."""
    report = metrics.evaluate_vae(
        params, test, jax.random.key(1), **nets(model), num_samples=num_samples,
        chunk_size=min(50, num_samples), batch_size=100, gap=False)
    encoder, decoder, both = (int(number) for number in taken)
    flops = (encoder * costs['encoder'] + decoder * costs['decoder']
             + both * costs['joint'])
    return Row(arm, seed, report['nll'], report['nll_error'], report['neg_elbo'],
               report['kl'], report['mutual_information'], report['active_units'],
               encoder + both, decoder + both,
               flops / ((decoder + both) * costs['joint']), seconds,
               ' '.join(f'{value:.4g}' for value in watched))


def line(row: Row) -> str:
    """A row in words."""
    return (f'{row.arm:<18} seed {row.seed}: NLL {row.nll:.3f} ± {row.nll_error:.2f}, '
            f'KL {row.kl:.3f}, MI {row.mutual_information:.3f}, '
            f'{row.active_units:.0f} active, {row.encoder_steps} encoder steps, '
            f'{row.relative_flops:.2f} x FLOPs, {row.seconds:.0f} s')


def draw(file: Path, rows: Sequence[Row]) -> None:
    """Draw the mutual information on held-out sentences, epoch by epoch."""
    figure, axes = plt.subplots(figsize=(5, 3))
    for arm in dict.fromkeys(row.arm for row in rows):
        mine = np.array([row.watched.split() for row in rows if row.arm == arm], float)
        figures.band(axes, 1 + np.arange(mine.shape[1]), mine.T, arm)
    axes.set(xlabel='epochs', ylabel='mutual information, nats')
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
