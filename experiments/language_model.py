"""Train a decoder-only transformer on characters, jointly or layer by layer.

    ./launch.sh language_model                            # python_docs, about 3 minutes
    ./launch.sh language_model --order=joint
    ./launch.sh language_model --riders=3e-4 --reach=all  # the rest by sign on the way
    ./launch.sh language_model --dataset=names           # first names, made up
    ./launch.sh language_model --dataset=shakespeare --run_dir=RUN
    ./launch.sh language_model --from_run=RUN             # adapt it to python_docs

A cycle is a visit: --visit steps of one block, each on a minibatch of its own. The
blocks are the embedding (with the head, which is tied to it) and the layers; of the
block that moves alone there are gradients, Adam's moments (cleared at each visit) and,
with --half, whose layers rest in 16 bits, float32 parameters. Evaluated are nats a
character on the test text, each window of --context characters told from its own past.

What it is compared with has flags of its own: --companions=embedding keeps the
embedding always on (LISA), --riders moves the other layers by sign (FRUGAL, and BREAD
with --reach=deeper) or by another --rider_rule, --rank trains low-rank adapters alone
(LoRA), and --optimiser takes another joint rule of optax.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

import cdgm
from cdgm import data as datasets
from cdgm import layers, losses, models, stateless
from cdgm.blocks import leaf_path
from cdgm.data import Dataset
from experiments.harness import cli, execute, training_flags
from experiments.harness.block_choice import Choice
from experiments.harness.errors import SettingError
from experiments.harness.runs.run_folder import load_params
from experiments.harness.task import Experiment, Task

# All printable characters of ASCII, the newline, and one for every other: a model of
# one text can be adapted to another.
VOCABULARY = '\n' + ''.join(map(chr, range(32, 127))) + '\N{REPLACEMENT CHARACTER}'

_TEXTS = {'python_docs': datasets.python_docs, 'shakespeare': datasets.shakespeare,
          'names': datasets.names_text}
_ORDERS = ('joint', 'ascending', 'descending', 'shuffled', 'uniform', 'gradient_share')
_adam = partial(optax.scale_by_adam, b2=0.99)
_OPTIMISERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    'adam': _adam,
    # As in optax.adafactor, without momentum; a pair of vectors for each matrix.
    'adafactor': lambda: optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=32),
        optax.clip_by_block_rms(1.)),
    # The layers' matrices along their directions, with momentum or without any state.
    'muon': lambda: _directions(optax.trace(0.95, nesterov=True)),
    'orthogonal': lambda: _directions(optax.identity())}
# What moves along keeps nothing. Each is given the rounds of what goes by rounds.
_RIDER_RULES: dict[str, Callable[[int], optax.GradientTransformation]] = {
    'sign': lambda rounds: optax.scale_by_sign(),
    'rms': lambda rounds: stateless.scale_by_rms(),
    'columns': lambda rounds: stateless.scale_by_columns(),
    'rows_and_columns': stateless.scale_by_rows_and_columns,
    'orthogonal': stateless.orthogonalise}
_EVALUATION_BATCH = 128


def define_flags(values: flags.FlagValues) -> None:
    """Add the flags of this experiment."""
    training_flags.define_flags(
        values, dataset='python_docs', order='shuffled', learning_rate='1e-3',
        batch_size=12, epochs=0.1, fresh_minibatches=True)
    own: dict[str, Any] = {'flag_values': values}
    flags.DEFINE_integer('width', 128, 'Width D.', lower_bound=1, **own)
    flags.DEFINE_integer('depth', 4, 'Layers L.', lower_bound=1, **own)
    flags.DEFINE_integer('heads', 4, 'Heads of attention.', lower_bound=1, **own)
    flags.DEFINE_integer('context', 64, 'Characters of a window.', lower_bound=2, **own)
    flags.DEFINE_integer('visit', 25, 'Steps in a visit of a block.', lower_bound=1,
                         **own)
    flags.DEFINE_integer('warmup', 100, 'Steps of training in which the rates rise.',
                         lower_bound=0, **own)
    flags.DEFINE_integer('decay_steps', 2000, 'Steps of training after which the rates '
                         'have fallen, as a cosine, to a tenth.', lower_bound=1, **own)
    flags.DEFINE_enum('optimiser', 'adam', sorted(_OPTIMISERS), 'Rule of a block; the '
                      'others save memory in joint training.', **own)
    flags.DEFINE_float('riders', 0., 'Rate of the steps of what is not active, by '
                       '--rider_rule; 0 for none.', lower_bound=0., **own)
    flags.DEFINE_enum('rider_rule', 'sign', list(_RIDER_RULES), 'Stateless rule of '
                      'what rides.', **own)
    flags.DEFINE_integer('rider_rounds', 5, 'Rounds of the rules rows_and_columns and '
                         'orthogonal.', lower_bound=1, **own)
    flags.DEFINE_enum('reach', 'all', ['deeper', 'all'], 'Which layers ride with a '
                      'layer: the deeper ones cost least.', **own)
    flags.DEFINE_list('companions', [], 'Blocks that move along in every step, by '
                      'their own rule and with a state that is kept: embedding.', **own)
    flags.DEFINE_integer('rank', 0, 'Rank of adapters that alone are trained (LoRA); '
                         '0 trains all.', lower_bound=0, **own)
    flags.DEFINE_bool('half', False, 'Layers at rest in 16 bits.', **own)
    flags.DEFINE_string('from_run', None, 'Folder of a run of this experiment, from '
                        'whose parameters to start.', **own)


def traced(values: flags.FlagValues) -> tuple[str, ...]:
    """Flags that only change numbers."""
    return ('seed', 'learning_rate', *(['riders'] if values.riders else []))


def hyper(values: flags.FlagValues) -> dict[str, Any]:
    """What the task is given beside the seed."""
    _check(values)
    given = training_flags.read_rates(values, ('rate',))
    return {**given, **({'riders': values.riders} if values.riders else {})}


def load(values: flags.FlagValues) -> Dataset:
    """The text, in windows of two contexts, each of which begins within another.

    Raises:
      SettingError: the set is no text.
    """
    if values.dataset not in _TEXTS:
        raise SettingError(f'--dataset={values.dataset} is no text; choose one of '
                           f'{", ".join(_TEXTS)}.')
    loaded = _TEXTS[values.dataset](values.data_dir, length=values.context)
    table = datasets.token_table(loaded.vocabulary or '', VOCABULARY, VOCABULARY[-1])

    def pairs(split):
        rows = table[split.examples]
        return split._replace(examples=np.concatenate([rows[:-1], rows[1:]], axis=1))

    return loaded._replace(train=pairs(loaded.train), test=pairs(loaded.test),
                           vocabulary=VOCABULARY)


def task(values: flags.FlagValues, data: Dataset) -> Task:
    """The model, its blocks, and how they take turns."""
    model = models.transformer(
        len(VOCABULARY), width=values.width, depth=values.depth, heads=values.heads,
        context=values.context, rank=values.rank)
    loss = partial(losses.next_token_loss, hidden=model.hidden,
                   unembedding=model.unembedding)
    start = _read_start(values, model)

    def init(key):
        params = model.init(key)
        params = params if start is None else _overlaid(params, start)
        return {**params, 'layers': layers.encode(params['layers'])
                } if values.half else params

    def descent(hyper):
        return cdgm.block_descent(make_blocks(values, loss, hyper))

    # Each character of the test text once, as nothing is told of a window's first.
    test = jnp.asarray(data.test.examples[:, :values.context + 1])

    def evaluate(params, hyper):
        nats = _mean_over_batches(partial(loss, params), test)
        return {'nats': nats, 'bits': nats / math.log(2)}

    def crop(windows, key):
        first = jax.random.randint(key, (len(windows),), 0, values.context)
        return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(
            row, at, values.context + 1))(windows, first)

    sample = jax.jit(lambda params: models.sample_tokens(
        partial(model.logits, params), jnp.zeros((3, 1), jnp.int32), 300,
        jax.random.key(0), context=values.context, temperature=0.8, top_k=40))

    def draw(folder, params):
        texts = [''.join(VOCABULARY[token] for token in row) for row in
                 np.asarray(sample(params))]
        (folder / 'sample.txt').write_text(
            '\n----\n'.join(text.strip('\n') for text in texts) + '\n')

    names = tuple(make_blocks(values, loss, {'rate': 1., 'riders': 1.}))
    return Task(init=init, descent=descent, order=_plan(values, names, model),
                examples=jnp.asarray(data.train.examples), prepare=crop,
                evaluate=evaluate, draw=draw, batch_size=values.batch_size, fresh=True)


def make_blocks(values: flags.FlagValues, loss: cdgm.LossFn, hyper: dict[str, Any]
                ) -> dict[str, cdgm.Block]:
    """The blocks: everything, the adapters, or the embedding and each layer."""
    def falling(rate):
        """A step along the update, by a rate of the steps of the whole training."""
        shape = optax.warmup_cosine_decay_schedule(
            0. if values.warmup else 1., 1., values.warmup,
            max(values.decay_steps, values.warmup + 1), 0.1)
        return optax.chain(cdgm.transforms.scale_by_global_schedule(shape),
                           optax.scale_by_learning_rate(rate))

    def rule():
        return optax.chain(_OPTIMISERS[values.optimiser](), falling(hyper['rate']))

    if values.rank:
        return {'adapters': cdgm.Block('layers/low_rank', loss, rule()),
                'frozen': cdgm.Block(
                    lambda path: not path.startswith('layers/low_rank/'), loss,
                    optax.set_to_zero(), ephemeral=True)}
    if values.order == 'joint':
        return {'joint': cdgm.Block('', loss, rule())}
    riders = {}
    if values.riders:
        rule_of = _RIDER_RULES[values.rider_rule]
        riders = {name: optax.chain(rule_of(values.rider_rounds),
                                    falling(hyper['riders']))
                  for name in ('embedding', 'layers')}
    along = tuple(values.companions)
    outer = cdgm.Block(('embedding', 'head'), loss, rule(), ephemeral=not along,
                       riders={name: tx for name, tx in riders.items()
                               if name == 'layers'})
    return {'embedding': outer, **layers.blocks(
        'layers', values.depth, loss, rule(), reach=values.reach, companions=along,
        riders={name: tx for name, tx in riders.items()
                if name == 'layers' or values.reach == 'all' and name not in along})}


def _directions(momentum: optax.GradientTransformation) -> optax.GradientTransformation:
    """A rule for the matrices of a stack, whose leaves are [L, m, n]; Adam for others.

    Source: Muon, https://kellerjordan.github.io/posts/muon/.
    """
    return optax.partition(
        {'matrix': optax.chain(momentum, stateless.orthogonalise()), 'other': _adam()},
        lambda params: jax.tree.map(
            lambda leaf: 'matrix' if leaf.ndim > 2 else 'other', params))


def _plan(values: flags.FlagValues, names: tuple[str, ...],
          model: models.Transformer) -> training_flags.UpdatePlan:
    """How the blocks take turns, a visit at a time."""
    moving = [float(name != 'frozen' and name not in values.companions)
              for name in names]
    order = [index for index, moves in enumerate(moving) if moves]

    def build(costs, key):
        if values.order == 'shuffled':
            return cdgm.shuffled([int(moves) for moves in moving], key)
        if values.order == 'uniform':
            return cdgm.uniform(len(names), key, [moves / len(order)
                                                  for moves in moving])
        if values.order == 'gradient_share':
            return cdgm.selection.gradient_share(
                _sizes(model, values.depth), key)
        turns = order[::-1] if values.order == 'descending' else order
        return cdgm.sequence(turns, len(names))

    return training_flags.UpdatePlan((), names, {}, Choice(build), values.visit)


def _sizes(model: models.Transformer, depth: int) -> list[int]:
    """Parameters of the embedding's block, and of each layer."""
    counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in
              jax.eval_shape(model.init, jax.random.key(0)).items()}
    return [counts['embedding'] + counts['head'],
            *[counts['layers'] // depth] * depth]


def _check(values: flags.FlagValues) -> None:
    """Raise a SettingError if flags do not go together, before anything compiles."""
    joint = values.order == 'joint'
    if values.order not in _ORDERS:
        raise SettingError(f'--order={values.order}: choose one of '
                           f'{", ".join(_ORDERS)}.')
    if values.schedule != 'cyclic':
        raise SettingError('--schedule does not serve here; --order says how the '
                           'blocks take turns.')
    if not values.fresh_minibatches:
        raise SettingError('--nofresh_minibatches: each step of a visit has a minibatch'
                           ' of its own here.')
    if values.rank and not joint:
        raise SettingError(f'--rank={values.rank} trains the adapters together; give '
                           '--order=joint.')
    if values.half and joint:
        raise SettingError('--half has no float32 parameters but those of an open '
                           'layer, and --order=joint moves all; name another order.')
    if (values.riders or values.companions) and joint:
        raise SettingError('--riders and --companions move along with a block, and '
                           '--order=joint moves all; name another order.')
    if values.rider_rule != 'sign' and not values.riders:
        raise SettingError(f'--rider_rule={values.rider_rule} has nothing to move; '
                           'give the rate of what rides, as --riders=1e-3.')
    if set(values.companions) - {'embedding'}:
        raise SettingError(f'--companions={",".join(values.companions)}: the embedding '
                           'alone can be one.')
    if values.width % values.heads:
        raise SettingError(f'--heads={values.heads} does not divide --width='
                           f'{values.width}.')
    if values.optimiser != 'adam' and not joint:
        raise SettingError(f'--optimiser={values.optimiser} is for --order=joint; a '
                           "block's moments are few.")


def _read_start(values: flags.FlagValues, model: models.Transformer) -> Any:
    """The parameters of the run to start from, of its first seed; None without one.

    Raises:
      SettingError: there is no such run, or its model is another; it names the first
        leaf that differs.
    """
    if values.from_run is None:
        return None
    try:
        saved = load_params(Path(values.from_run).expanduser())
    except (OSError, ValueError) as error:
        raise SettingError(f'--from_run={values.from_run} is not the folder of a '
                           f'complete run ({error}).') from None
    found = {leaf_path(path): leaf[0] for path, leaf in
             jax.tree_util.tree_leaves_with_path(saved)}
    form = jax.eval_shape(model.init, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(form):
        name = leaf_path(path)
        mine = getattr(found.get(name), 'shape', None)
        if mine != leaf.shape and 'low_rank' not in name:
            raise SettingError(
                f'--from_run={values.from_run} has {name} of the shape {mine}, and '
                f'the flags make it {leaf.shape}; give the sizes of that run.')
    return {name: np.asarray(layers.decode(jnp.asarray(leaf)))
            for name, leaf in found.items()}


def _overlaid(params: Any, start: dict[str, np.ndarray]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(start.get(leaf_path(path), leaf)), params)


def _mean_over_batches(loss, windows: jax.Array) -> jax.Array:
    """Mean loss over windows, a fixed number of them at a time."""
    size = min(_EVALUATION_BATCH, len(windows))
    whole = len(windows) // size * size
    total = size * jnp.sum(jax.lax.map(
        lambda batch: loss(batch, None)[0], windows[:whole].reshape(
            -1, size, windows.shape[1])))
    if whole < len(windows):
        total += (len(windows) - whole) * loss(windows[whole:], None)[0]
    return total / len(windows)


EXPERIMENT = Experiment(
    'language_model', {'nats': 'lower', 'bits': 'lower'}, define_flags, traced, hyper,
    task, {'sample.txt': 'What it writes'}, load)
main = partial(execute.main, EXPERIMENT)

if __name__ == '__main__':
    cli.run(define_flags, main, __doc__)
