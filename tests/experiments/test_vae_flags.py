"""What `experiments.vae` does with likelihoods, nets and objectives of other kinds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cdgm import losses, models
from cdgm.data import load
from experiments import vae
from experiments.harness import cli
from experiments.harness.errors import SettingError
from experiments.harness.runs.run_folder import read_rows

DATA = load('digits')
TINY = ('--latent=2', '--batch_size=4')
HYPER = {'rates': {'encoder': 1e-3, 'decoder': 1e-3}, 'beta': 1., 'sigma': 0.1}


def task(*arguments):
    return vae.task(cli.parse(vae.define_flags, [*TINY, *arguments]), DATA)


@pytest.mark.thorough
def test_a_learned_sigma_starts_where_it_is_told_and_is_the_decoders():
    ours = task('--hidden=8', '--likelihood=learned_gaussian', '--sigma=0.25')
    params = ours.init(jax.random.key(0))
    np.testing.assert_allclose(params['decoder']['log_scale'], np.log(0.25), rtol=1e-6)
    batch, key = jnp.asarray(ours.examples[:4]), jax.random.key(1)
    loss = ours.descent(HYPER).blocks['decoder'].loss
    (_, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, batch, key)
    plain = models.vae((8, 8, 1), 2, (8,))
    mean, logvar = plain.encode(params, batch)
    decoded = plain.decode(params, losses.sample_latent(mean, logvar, key))
    expected = stats.norm.logpdf(batch, decoded, 0.25).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(-terms.reconstruction, expected, rtol=1e-5)
    assert grads['decoder']['log_scale'] != 0


@pytest.mark.thorough
def test_sigma_and_the_last_layer_move_to_their_minimum():
    ours = task('--hidden=8', '--likelihood=learned_gaussian', '--exact_decay=0',
                '--ridge=0', '--order=last_layer,sigma,decoder,encoder')
    descent = ours.descent({key: HYPER[key] for key in ('rates', 'beta')})
    start = descent.init(ours.init(jax.random.key(0)))
    batch, key = jnp.asarray(ours.examples[:40]), jax.random.key(1)
    fitted, info = jax.jit(partial(descent.step, block='last_layer'))(start, batch, key)
    loss = descent.blocks['decoder'].loss
    layer = jax.jit(jax.grad(lambda p: loss(p, batch, key)[0]))
    before, after = (layer(state.params)['decoder'] for state in (start, fitted))
    for name in ('kernel', 'bias'):
        assert np.abs(after['logits'][name]).max() < 1e-4 * np.abs(
            before['logits'][name]).max()
    assert set(info.aux['last_layer']._fields) == {'reconstruction', 'kl'}
    scaled, _ = jax.jit(partial(descent.step, block='sigma'))(fitted, batch, key)
    np.testing.assert_allclose(layer(scaled.params)['decoder']['log_scale'], 0,
                               atol=1e-3)
    # What is left is the decoder's: the rest of it moves, and they do not.
    moved, _ = jax.jit(partial(descent.step, block='decoder'))(scaled, batch, key)
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), scaled.params, moved.params)
    assert same['decoder'] == {'log_scale': True, 'logits': {'kernel': True,
                                                             'bias': True},
                               'Dense_0': {'kernel': False, 'bias': False}}


def test_the_rest_is_all_that_is_not_exact():
    ours = task('--hidden=8', '--likelihood=learned_gaussian', '--order=rest*3,sigma')
    assert ours.order.updates == ('rest',) * 3 + ('sigma',)
    descent = ours.descent({'rates': {'rest': 1e-3}, 'beta': 1.})
    assert list(descent.blocks) == ['rest', 'sigma']
    start = descent.init(ours.init(jax.random.key(0)))
    batch, key = jnp.asarray(ours.examples[:8]), jax.random.key(1)
    moved, _ = jax.jit(partial(descent.step, block='rest'))(start, batch, key)
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), start.params, moved.params)
    assert [path for path, leaf in jax.tree.leaves_with_path(same) if leaf] == [
        (jax.tree_util.DictKey('decoder'), jax.tree_util.DictKey('log_scale'))]
    # One step of it is a step of joint training, whose sigma stays.
    joint = task('--hidden=8', '--likelihood=learned_gaussian', '--order=joint'
                 ).descent({'rates': {'joint': 1e-3}, 'beta': 1.})
    other, _ = jax.jit(partial(joint.step, block='joint'))(
        joint.init(start.params), batch, key)
    np.testing.assert_allclose(moved.params['encoder']['mean']['kernel'],
                               other.params['encoder']['mean']['kernel'], rtol=1e-5)


@pytest.mark.thorough
def test_sigma_has_a_rate_of_its_own():
    ours = task('--hidden=8', '--likelihood=learned_gaussian', '--order=joint',
                '--sigma_rate=0.1', '--sigma=0.5')
    descent = ours.descent({'rates': {'joint': 1e-3}, 'beta': 1., 'sigma_rate': 0.1})
    start = descent.init(ours.init(jax.random.key(0)))
    moved, _ = descent.step(start, jnp.asarray(ours.examples[:8]), jax.random.key(1),
                            'joint')
    gone = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params, moved.params)
    # Adam's first step is as long as its rate.
    np.testing.assert_allclose(gone['decoder']['log_scale'], 0.1, rtol=1e-4)
    np.testing.assert_allclose(gone['encoder']['mean']['bias'], 1e-3, rtol=1e-4)


@pytest.mark.parametrize('arguments, words', [
    (['--order=sigma,decoder,encoder'], 'give --likelihood=learned_gaussian'),
    (['--order=last_layer,decoder,encoder'], 'a gaussian --likelihood'),
    (['--order=last_layer,decoder,encoder', '--likelihood=gaussian', '--net=conv'],
     '--net=mlp'),
    (['--order=sigma,decoder,encoder', '--likelihood=learned_gaussian',
      '--objective=split'], 'leave sigma and last_layer out'),
    (['--order=rest,encoder'], 'unknown block .encoder.; there are rest, sigma'),
    (['--likelihood=gaussian', '--sigma_rate=0.1'], 'moves by its gradient')])
def test_exact_blocks_that_cannot_be_are_one_line(arguments, words):
    with pytest.raises(SettingError, match=words):
        task(*arguments)


@pytest.mark.thorough
def test_a_logistic_likelihood_has_gradients_everywhere():
    levels = np.round(DATA.train.examples * 15) * 17 / 255
    ours = vae.task(cli.parse(vae.define_flags, [
        *TINY, '--likelihood=logistic', '--sigma=0.2']), DATA._replace(
            train=DATA.train._replace(examples=levels)))
    batch = ours.prepare(jnp.asarray(ours.examples[:4]), jax.random.key(0))
    value, grads = jax.jit(jax.value_and_grad(lambda p: ours.descent(HYPER).blocks[
        'encoder'].loss(p, batch, jax.random.key(1))[0]))(
            ours.init(jax.random.key(0)))
    assert np.isfinite(value)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_convolutions_take_the_place_of_the_perceptrons():
    form = jax.eval_shape(task('--net=conv', '--hidden=3', '--hidden=4').init,
                          jax.random.key(0))
    assert form['encoder']['Conv_1']['kernel'].shape == (3, 3, 3, 4)
    assert form['encoder']['mean']['bias'].shape == (2,)


@pytest.mark.thorough
def test_the_decoder_of_pixels_takes_the_place_of_the_others():
    ours = task('--net=pixel', '--hidden=3', '--pixel_layers=2')
    params = ours.init(jax.random.key(0))
    assert set(params['decoder']) == {'of_latent', 'of_pixels', 'layers_0', 'layers_1',
                                      'logits'}
    model = models.pixel_vae((8, 8, 1), 2, (3,), depth=2)
    batch, key = ours.prepare(ours.examples[:4], jax.random.key(1)), jax.random.key(2)
    value, terms = jax.jit(ours.descent(HYPER).blocks['decoder'].loss)(
        params, batch, key)

    @jax.jit
    def by_hand(params):
        latent = losses.sample_latent(*model.encode(params, batch), key)
        return losses.bernoulli_log_likelihood(
            model.logits(model.decode(params, latent), batch), batch)

    log_p = by_hand(params)
    np.testing.assert_allclose(terms.reconstruction, -log_p.mean(), rtol=1e-6)
    np.testing.assert_allclose(value, terms.reconstruction + terms.kl, rtol=1e-6)


def test_each_objective_gives_the_encoder_its_own_loss():
    blocks = {name: task(f'--objective={name}').descent(HYPER).blocks
              for name in ('elbo', 'split', 'wake_sleep')}
    assert blocks['elbo']['encoder'].loss is blocks['elbo']['decoder'].loss
    assert blocks['split']['encoder'].loss.func is losses.posterior_kl
    assert blocks['wake_sleep']['encoder'].loss.func is losses.sleep
    assert blocks['split']['decoder'].loss.func is losses.neg_elbo


@pytest.mark.parametrize('arguments, message', [
    (('--objective=split', '--order=joint'), 'one block has both'),
    (('--objective=split', '--order=rest'), 'one block has both'),
    (('--objective=wake_sleep', '--likelihood=gaussian'), 'black and white'),
    (('--net=pixel', '--likelihood=gaussian'), 'black and white'),
    (('--net=pixel', '--objective=wake_sleep'), 'draws one at a time'),
    (('--pixel_layers=2',), 'is of --net=pixel')])
def test_what_does_not_go_together_is_one_line(arguments, message):
    with pytest.raises(SettingError, match=message):
        task(*arguments).descent(HYPER)


def test_pixels_outside_the_support_are_refused():
    bright = DATA._replace(train=DATA.train._replace(examples=16 * DATA.train.examples))
    with pytest.raises(ValueError, match=r'bernoulli likelihood is of values in'):
        vae.task(cli.parse(vae.define_flags, [*TINY]), bright)


@pytest.mark.slow
def test_a_run_can_end_with_an_evaluation_and_the_doctor(run):
    """Training of one cycle has taught the decoder nothing of its latent."""
    folder = run('vae', *TINY, '--hidden=8', '--cycles=1', '--evaluations=1',
                 '--likelihood=gaussian', '--sigma=5', '--final_samples=5')
    text = (folder / 'evaluation.txt').read_text()
    assert (folder / 'rate_distortion.png').exists()
    assert set(read_rows(folder)[-1]['test']) == {'neg_elbo', 'mutual_information',
                                                  'active_units'}
    assert 'standardised_error' in text and "scale: the likelihood's scale is off" in (
        text)


@pytest.mark.slow
def test_a_run_of_the_pixel_net_draws_a_pixel_at_a_time(run):
    folder = run('vae', *TINY, '--net=pixel', '--hidden=3', '--cycles=2',
                 '--evaluations=1')
    assert {'samples.png', 'manifold.png', 'traversal.png'} <= {
        path.name for path in folder.iterdir()}
