"""The doctor on planted games, and its numbers against SciPy's and scikit-learn's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigs
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score

import cdgm
from cdgm import losses
from cdgm.diagnosis import game_numbers
from cdgm.diagnosis.game_numbers import ritz_values

KEY = jax.random.key(0)
CENTRES = jnp.array([[1., 0.], [0., 1.], [-1., 0.], [0., -1.]])
BATCH = 128


# A generative adversarial network of the plane, four modes.

def dense(key, *sizes):
    keys = jax.random.split(key, len(sizes))
    return [{'w': jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, 'b': jnp.zeros(b)}
            for k, a, b in zip(keys, sizes, sizes[1:])]


def mlp(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.leaky_relu(x @ layer['w'] + layer['b'][None], 0.2)
    return x @ layers[-1]['w'] + layers[-1]['b'][None]


def generate(params, latent):
    return mlp(params['generator'], latent)


def discriminate(params, x):
    return mlp(params['discriminator'], x)[:, 0]


def draw(key):
    which, where = jax.random.split(key)
    return CENTRES[jax.random.randint(which, (BATCH,), 0, 4)] + 0.1 * jax.random.normal(
        where, (BATCH, 2))


NETS = {'generate': generate, 'discriminate': discriminate, 'latent_size': 2,
        'loss': losses.non_saturating}


def penalised(params, batch, key):
    value, terms = losses.discriminator_loss(params, batch, key, **NETS)
    return value + 0.5 * losses.squared_gradient(partial(discriminate, params),
                                                 batch), terms


GAME = cdgm.block_descent({
    'discriminator': cdgm.Block('discriminator', penalised, optax.adam(3e-3, b1=0.5)),
    'generator': cdgm.Block('generator', partial(losses.generator_loss, **NETS),
                            optax.adam(1e-3, b1=0.5))})


def fakes(params, batch, key):
    return batch, generate(params, jax.random.normal(key, (BATCH, 2)))


def logits(params, batch, key):
    return tuple(map(partial(discriminate, params), fakes(params, batch, key)))


def start(seed=0):
    one, other = jax.random.split(jax.random.key(seed))
    return GAME.init({'discriminator': dense(one, 2, 32, 32, 1),
                      'generator': dense(other, 2, 32, 32, 2)})


@partial(jax.jit, static_argnums=(1, 2, 3))
def train(state, order, cycles, game=GAME):
    def cycle(state, key):
        return game.cycle(state, draw(key), key, order)[0], None

    return jax.lax.scan(cycle, state, jax.random.split(KEY, cycles))[0]


@pytest.fixture(scope='module')
def trained():
    return train(start(), ('discriminator', 'generator'), 4000)


BOTH = {'logits': logits, 'points': fakes}
measure = jax.jit(partial(game_numbers, GAME, **BOTH))  # compiled once for all tests


def ailments(state):
    return named(cdgm.diagnose({name: float(x) for name, x in measure(
        state, draw(jax.random.key(9)), jax.random.key(8)).items()}))


def named(findings):
    return {finding.ailment: finding.words for finding in findings}


@pytest.mark.thorough
def test_nothing_is_found_in_a_healthy_run(trained):
    samples = fakes(trained.params, draw(KEY), KEY)[1]
    nearest = np.argmin(cdist(samples, CENTRES), axis=1)
    assert min(np.bincount(nearest, minlength=4)) > 10  # it is healthy indeed
    assert ailments(trained) == {}


@pytest.mark.thorough
def test_a_discriminator_that_was_trained_alone():
    alone = cdgm.block_descent({**GAME.blocks, 'discriminator': GAME.blocks[
        'discriminator']._replace(loss=partial(losses.discriminator_loss, **NETS))})
    far = start()
    far.params['generator'][-1]['b'] += 2.
    found = ailments(train(far, ('discriminator',), 500, alone))
    assert 'discriminator won' in found and 'generator collapsed' not in found
    assert 'in the wrong order (limit 2%)' in found['discriminator won']


@pytest.mark.thorough
def test_a_generator_of_one_point(trained):
    last = trained.params['generator'][-1]
    point = [*trained.params['generator'][:-1],
             {'w': jnp.zeros_like(last['w']), 'b': CENTRES[0]}]
    found = ailments(trained._replace(params={
        **trained.params, 'generator': point}))
    assert 'generator collapsed' in found and 'modes missing' not in found
    assert 'two samples are 0 of the distance' in found['generator collapsed']


@pytest.mark.thorough
def test_a_generator_of_two_modes(trained):
    def two(params, batch, key):
        return batch, CENTRES[jnp.arange(BATCH) % 2] + 0.05 * jax.random.normal(
            key, (BATCH, 2))
    found = cdgm.diagnose(GAME, trained, draw(KEY), KEY, points=two)
    assert set(named(found)) == {'modes missing'}


def quadratic(first, interaction, second):
    def value(params, batch, key):
        x, y = params['x'], params['y']
        return jnp.sum(first * x * x / 2 + interaction * x * y - second * y * y / 2)
    return cdgm.block_descent({
        'x': cdgm.Block('x', lambda *args: (value(*args), None), optax.sgd(0.1)),
        'y': cdgm.Block('y', lambda *args: (-value(*args), None), optax.sgd(0.1))})


def of_game(state, game):
    return named(cdgm.diagnose(game, state, None, KEY))


def at(descent, size=1):
    return descent.init({'x': jnp.ones(size), 'y': jnp.full(size, 0.5)})


def test_a_bilinear_game_rotates():
    game = quadratic(0., 2., 0.)
    words = of_game(at(game), game)['game rotates']
    assert '0 ± 2i, at 90 degrees' in words and 'cannot converge' in words


def test_a_game_that_rotates_slowly_is_told_its_step():
    game = quadratic(0.1, 2., 0.1)
    words = of_game(at(game), game)['game rotates']
    assert f'below h = {2 * 0.1 / (0.1 ** 2 + 4):.2g}' in words


def test_a_game_of_curvature_does_not_rotate():
    game = quadratic(1., 1., 1.)
    assert of_game(at(game), game) == {}


def test_a_player_without_a_gradient():
    game = quadratic(1., 0., 1e-6)
    assert set(of_game(at(game), game)) == {'no gradient'}


def test_what_is_not_finite():
    game = quadratic(1., 1., 1.)
    state = game.init({'x': jnp.array([jnp.inf]), 'y': jnp.ones(1)})
    assert 'not finite' in of_game(state, game)


def test_eigenvalues_are_exact_in_a_small_game():
    """v = (a x + b y, -b x + c y) in each coordinate: roots of a 2 by 2 matrix each."""
    first, interaction, second = np.random.default_rng(0).uniform(0.1, 2, (3, 5))
    game = quadratic(first, interaction, second)
    field = partial(whole, cdgm.games.gradient_field(game, at(game, 5), None, KEY))
    found = ritz_values(field, at(game, 5).params, 30)
    wanted = np.concatenate([np.linalg.eigvals([[a, b], [-b, c]])
                             for a, b, c in zip(first, interaction, second)])
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(wanted),
                               atol=2e-5)


def whole(field, params):
    _, gradients = field(params)
    return cdgm.blocks.merge(*gradients.values())


@pytest.mark.thorough
def test_the_leading_eigenvalue_is_arpacks(trained):
    """Of the adversarial network, whose Jacobian has thousands of columns."""
    batch = draw(KEY)
    field = partial(whole, cdgm.games.gradient_field(GAME, trained, batch, KEY))
    point, unravel = ravel_pytree(trained.params)
    product = jax.jit(lambda direction: jax.jvp(
        lambda x: ravel_pytree(field(unravel(x)))[0], (point,), (direction,))[1])
    wanted = np.abs(eigs(LinearOperator(
        (point.size, point.size), lambda u: product(u.ravel()),
        dtype=point.dtype), k=1, return_eigenvectors=False, v0=np.ones(point.size)))
    numbers = measure(trained, batch, KEY)
    np.testing.assert_allclose(numbers['leading'], wanted[0], rtol=1e-3)


@pytest.mark.thorough
def test_the_numbers_are_those_of_their_definitions(trained):
    batch, key = draw(KEY), jax.random.key(3)
    numbers = measure(trained, batch, key)
    real, fake = (np.asarray(x, np.float64) for x in fakes(trained.params, batch, key))
    real_logits, fake_logits = logits(trained.params, batch, key)
    auc = roc_auc_score([1] * BATCH + [0] * BATCH,
                        np.concatenate([real_logits, fake_logits]))
    nearest = np.sort(cdist(real, real), axis=1)[:, 1]
    for name, wanted in {
            'overlap': 1 - auc, 'logit_gap': np.mean(real_logits - fake_logits),
            'diversity': pdist(fake).mean() / pdist(real).mean(),
            'reach': np.median(cdist(real, fake).min(1)) / np.median(nearest),
            'finite': 1,
            'loss/generator': losses.generator_loss(
                trained.params, batch, key, **NETS)[0],
            'gradient_norm/discriminator': optax.tree.norm(jax.grad(
                lambda p: penalised({**trained.params, 'discriminator': p}, batch,
                                    key)[0])(trained.params['discriminator']))}.items():
        np.testing.assert_allclose(numbers[name], wanted, rtol=1e-4, err_msg=name)


def test_ties_count_by_half():
    game = quadratic(1., 1., 1.)
    equal = jnp.zeros(4)
    numbers = game_numbers(game, at(game), None, KEY,
                           logits=lambda *args: (equal, equal))
    assert numbers['overlap'] == 0.5


def test_blocks_without_a_state_are_refused():
    with pytest.raises(TypeError, match='with its state; got Descent and NoneType'):
        cdgm.diagnose(GAME)
