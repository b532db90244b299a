import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm.data import load
from experiments import iwae_table
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.runs.run_folder import read_rows

DATA = load('digits')
HYPER = {'rates': dict.fromkeys(('encoder', 'decoder', 'prior', 'joint'), 1e-3)}
TINY = ('--batch_size=10', '--cycles=2', '--evaluations=1', '--nll_samples=2',
        '--nll_images=4', '--final_samples=3', '--final_images=5')


def task(*arguments):
    return iwae_table.task(cli.parse(iwae_table.define_flags, arguments), DATA)


def test_a_vamp_prior_is_a_block_of_its_own():
    ours = task('--prior=vamp', '--components=3', '--order=decoder,encoder,prior')
    assert list(ours.descent(HYPER).blocks) == ['encoder', 'decoder', 'prior']
    form = jax.eval_shape(ours.init, jax.random.key(0))
    assert form['prior']['inputs'].shape == (3, 8, 8, 1)
    assert list(task('--order=joint').descent(HYPER).blocks) == ['joint']


def test_the_gradient_of_a_block_is_clipped_before_adam():
    clipped = task('--order=joint', '--max_norm=2').descent(HYPER).blocks['joint'].tx
    plain = task('--order=joint').descent(HYPER).blocks['joint'].tx
    grads = {'a': jnp.array([30.]), 'b': jnp.array([40.])}
    scaled = {'a': jnp.array([1.2]), 'b': jnp.array([1.6])}
    step, state = clipped.update(grads, clipped.init(grads))
    expected, expected_state = plain.update(scaled, plain.init(grads))
    chex.assert_trees_all_close((step, state[1]), (expected, expected_state))


@pytest.mark.thorough
def test_two_layers_have_the_weights_of_their_chain(key):
    """log w of one sample is minus the bound for K = 1 with the same key."""
    values = cli.parse(iwae_table.define_flags, ['--layers=2'])
    net, model = iwae_table.build(values, DATA)
    ours = task('--layers=2')
    x = jnp.round(jnp.asarray(ours.examples[:3]))

    @jax.jit
    def both(key):
        params = ours.init(jax.random.key(0))
        loss, _ = ours.descent(HYPER).blocks['encoder'].loss(params, x, key)
        return loss, iwae_table.log_weight(model, params, x, key)

    loss, weights = both(key)
    np.testing.assert_allclose(loss, -weights.mean(), rtol=1e-5)
    assert net.latent_sizes == (100, 50)


@pytest.mark.parametrize('arguments, message', [
    (('--prior=vamp', '--layers=2'), 'give --layers=1'),
    (('--prior=vamp', '--components=5000'), r'are \d+ to train on; ask for fewer'),
    (('--order=decoder,prior',), "unknown block 'prior'")])
def test_what_does_not_go_together_is_one_line(arguments, message):
    with pytest.raises(SettingError, match=message):
        task(*arguments)


@pytest.mark.thorough
def test_a_run_ends_with_an_evaluation(run):
    folder = run('iwae_table', *TINY)
    report = json.loads((folder / 'evaluation.json').read_text())
    assert report['examples'] == 5 and report['nll_samples'] == 3
    assert report['nll'] > 10 and report['latent_size'] == 50
    assert 'mutual_information' in (folder / 'evaluation.txt').read_text()
    assert set(read_rows(folder)[-1]['test']) == {'nll', 'neg_elbo', 'active_units'}
