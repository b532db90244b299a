"""A run of the VAE: what its folder holds, and what its numbers do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import losses, models
from cdgm.data import binarize, load
from experiments import vae
from experiments.harness import cli
from experiments.harness.runs import run_folder, status_log
from experiments.harness.runs.run_folder import load_params, read_rows


TINY = '--hidden=8', '--latent=2', '--cycles=4', '--evaluations=2'


def parse(*arguments):
    return cli.parse(vae.define_flags, arguments)


@pytest.fixture(scope='module')
def pair(run):
    """Folder of a run of two seeds."""
    return run('vae', *TINY, '--seeds=2')


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != 'seconds'}
            for row in rows]


def leaves(params):
    return {jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree.leaves_with_path(params)}


def test_folder(pair):
    manifest = status_log.read_manifest(pair)
    assert {path.name for path in pair.iterdir()} == {
        'flags.txt', 'manifest.json', 'attempts.jsonl', 'lock', 'metrics.jsonl',
        'checkpoints',
        'params.npz', 'samples.png', 'reconstructions.png', 'interpolation.png',
        'traversal.png', 'manifold.png', 'latent_map.png', 'loss.png',
        *(['uncommitted.diff'] if manifest['uncommitted'] else [])}
    for picture in pair.glob('*.png'):
        assert picture.read_bytes().startswith(b'\x89PNG\r\n')
    assert manifest['versions']['jax'] == jax.__version__
    assert manifest['platform'] == jax.default_backend()
    assert manifest['data'] == load('digits').sha256
    assert {'commit', 'device', 'cores', 'command'} <= set(manifest)
    assert manifest['attempts'] == 1
    assert manifest['digests'] == run_folder.digests(pair)
    assert status_log.state_of(pair) == status_log.State('done', attempts=1)


def test_rows(pair):
    rows = read_rows(pair)
    assert [row['cycle'] for row in rows] == [0, 1, 2, 3, 4]
    assert [row['cycle'] for row in rows if 'test' in row] == [0, 2, 4]
    # 1437 images hold eleven minibatches of 128.
    np.testing.assert_allclose([row['epoch'] for row in rows], np.arange(5) / 11)
    np.testing.assert_allclose([row['gflop'] for row in rows],
                               np.arange(5) * rows[1]['gflop'])
    for row in rows[1:]:
        assert set(row['loss']) == {'encoder', 'decoder'}
        for name, loss in row['loss'].items():
            terms = row['aux'][name]
            # -ELBO = reconstruction + KL, a number for each of the seeds.
            np.testing.assert_allclose(
                loss, np.add(terms['reconstruction'], terms['kl']), rtol=1e-6)
            assert len(loss) == 2 and loss[0] != loss[1]


def test_params_are_those_of_the_last_evaluation(pair):
    params = load_params(pair)
    model = models.vae((8, 8, 1), latent_size=2, hidden=(8,))
    form = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(lambda leaf: (2, *leaf.shape), form) == jax.tree.map(
        np.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    # The noise of the test is one key for every run.
    key = jax.random.key(0)
    with jax.enable_x64(False):
        images = binarize(load('digits').test.examples, key)

        def neg_elbo(params):
            def of_image(image, key):
                return losses.neg_elbo(params, image[None], key, encode=model.encode,
                                       decode=model.decode)[0]
            keys = jax.random.split(key, len(images))
            return jnp.mean(jax.vmap(of_image)(images, keys))

        expected = jax.jit(jax.vmap(neg_elbo))(params)
    np.testing.assert_allclose(
        read_rows(pair)[-1]['test']['neg_elbo'], expected, rtol=1e-5)


@pytest.mark.thorough
def test_flags_repeat_the_run(pair, run):
    again = run('vae', f'--flagfile={pair / "flags.txt"}')
    assert without_seconds(read_rows(again)) == without_seconds(read_rows(pair))
    first, second = leaves(load_params(pair)), leaves(load_params(again))
    assert first.keys() == second.keys()
    for name, leaf in first.items():
        np.testing.assert_array_equal(second[name], leaf)
    assert run_folder.digests(again) == run_folder.digests(pair)


def test_flags_keep_their_values():
    given = parse('--hidden=8', '--hidden=4', '--nofresh_minibatches', '--beta=0.5',
                  '--order=decoder*2,encoder',
                  '--learning_rate=decoder=1e-3,encoder=5e-4')
    lines = cli.serialise(given).splitlines()
    read = parse(*lines)
    assert read.flag_values_dict() == given.flag_values_dict()
    assert read.hidden == [8, 4] and read.data_dir is None


def test_seeds_are_those_of_single_runs():
    both = vae.EXPERIMENT.traced_inputs(parse('--seeds=2', '--seed=4'))
    alone = vae.EXPERIMENT.traced_inputs(parse('--seed=5'))
    assert both.key.shape == (2,) and both.key[0] == jax.random.key(4)
    assert both.key[1:] == alone.key


def test_what_is_traced_is_given():
    values = parse('--seeds=2', '--learning_rate=encoder=0.5,decoder=0.25', '--beta=4',
                   '--sigma=0.125')
    hyper = vae.EXPERIMENT.traced_inputs(values).hyper
    assert hyper['rates']['encoder'].dtype == np.float32
    assert jax.tree.map(list, hyper) == {
        'rates': {'encoder': [0.5] * 2, 'decoder': [0.25] * 2}, 'beta': [4.] * 2,
        'sigma': [0.125] * 2}
    assert set(vae.traced(values)) == {'seed', 'learning_rate', 'beta', 'sigma'}


def test_flags_reach_the_study():
    data = load('digits')
    task = vae.task(parse('--order=joint', '--fresh_minibatches', '--batch_size=7',
                          '--likelihood=gaussian'), data)
    hyper = {'rates': {'joint': 1e-3, 'encoder': 1e-3, 'decoder': 1e-3}, 'beta': 1.,
             'sigma': 1.}
    assert list(task.descent(hyper).blocks) == ['joint'] and task.fresh
    assert task.batch_size == 7 and task.order.updates == ('joint',)
    grey = task.examples[:2]
    np.testing.assert_array_equal(task.prepare(grey, jax.random.key(0)), grey)
    task = vae.task(parse('--order=encoder'), data)
    assert list(task.descent(hyper).blocks) == ['encoder', 'decoder']
    assert not task.fresh
    black_or_white = task.prepare(grey, jax.random.key(0))
    assert set(np.unique(black_or_white)) == {0, 1}


@pytest.mark.parametrize('name, flags', [
    ('beta', ()), ('sigma', ('--likelihood=gaussian',))])
@pytest.mark.thorough
def test_what_is_given_enters_the_loss(name, flags, cheap_compilation):
    """beta KL, and half the square of the error over sigma."""
    data = load('digits')
    task = vae.task(parse(*TINY, *flags), data)
    hyper = {'rates': {'encoder': 1., 'decoder': 1.}, 'beta': 1., 'sigma': 1.}

    @jax.jit
    def loss(hyper):
        params, batch = task.init(jax.random.key(0)), task.examples[:3]
        return task.descent(hyper).blocks['encoder'].loss(
            params, batch, jax.random.key(1))

    with cheap_compilation():
        value, terms = loss(hyper)
        other, other_terms = loss({**hyper, name: 0.5})
    if name == 'beta':
        np.testing.assert_allclose(other, value - terms.kl / 2, rtol=1e-6)
    else:
        # Beside the errors, 64 pixels of log sigma + log(2 pi) / 2.
        errors = terms.reconstruction - 32 * np.log(2 * np.pi)
        np.testing.assert_allclose(
            other_terms.reconstruction,
            4 * errors + 64 * np.log(0.5) + 32 * np.log(2 * np.pi), rtol=1e-6)
