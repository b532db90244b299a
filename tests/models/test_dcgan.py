"""The DCGAN: shapes, and its three normalisations by what each image depends on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdgm import models

LATENT = 2


def compiled(model):
    """The same model, whose functions are not run operation by operation."""
    state = model.nets_state and jax.jit(model.nets_state)
    more = {'static_argnames': 'train'} if state else {}
    return model._replace(
        init=jax.jit(model.init), nets_state=state,
        generate=jax.jit(model.generate, **more),
        discriminate=jax.jit(model.discriminate, **more))


def built(normalisation, shape=(7, 6, 3), blocks=1):
    """A model and parameters that are all different from zero."""
    model = compiled(models.dcgan(shape, LATENT, (4, 3), (3, 4), blocks=blocks,
                                  normalisation=normalisation))
    random = np.random.RandomState(0)
    return model, jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.1 * random.normal(size=leaf.shape).astype(
            leaf.dtype), model.init(jax.random.key(0)))


def plain(model, params):
    """Both nets without their state."""
    if model.nets_state is None:
        return partial(model.generate, params), partial(model.discriminate, params)
    nets = model.nets_state(jax.random.key(1))
    return (lambda x: model.generate(params, nets, x)[0],
            lambda x: model.discriminate(params, nets, x)[0])


@pytest.mark.parametrize('normalisation', models.NORMALISATIONS)
@pytest.mark.sample(1)
def test_shapes_and_what_an_image_depends_on(normalisation):
    model, params = built(normalisation)
    assert sorted(params) == ['discriminator', 'generator']
    generate, discriminate = plain(model, params)
    latent = jax.random.normal(jax.random.key(2), (4, LATENT))
    images = generate(latent)
    assert images.shape == (4, 7, 6, 3) and 0 < images.min() and images.max() < 1
    logits = discriminate(images)
    assert logits.shape == (4,)
    other = latent.at[3].add(1.)
    alone = bool((generate(other)[:3] == images[:3]).all())
    assert alone == (normalisation != 'batch')
    changed = discriminate(images.at[3].add(0.1))[:3]
    assert bool((changed == logits[:3]).all()) == alone


def test_groups_normalise_each_image():
    # A scale of an image's layer has no effect where it is normalised at once.
    model, params = built('group', blocks=0)
    latent = jax.random.normal(jax.random.key(2), (4, LATENT))
    scaled = jax.tree.map(lambda x: x, params)
    dense = scaled['generator']['Dense_0']
    dense |= {name: 100 * dense[name] for name in dense}
    np.testing.assert_allclose(model.generate(scaled, latent),
                               model.generate(params, latent), atol=1e-3)


@pytest.mark.thorough
def test_running_statistics_are_those_of_the_minibatch():
    model, params = built('batch', blocks=0)
    nets = model.nets_state(jax.random.key(1))
    latent = jax.random.normal(jax.random.key(2), (9, LATENT))
    images, moved = model.generate(params, nets, latent)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), moved, nets)
    assert all(jax.tree.leaves(same['discriminator']))
    assert not any(jax.tree.leaves(same['generator']))
    dense = params['generator']['Dense_0']
    hidden = (latent @ dense['kernel'] + dense['bias'][None]).reshape(-1, 4)
    first = moved['generator']['Normalisation_0']['BatchNorm_0']
    np.testing.assert_allclose(first['mean'], 0.1 * hidden.mean(0), rtol=1e-4,
                               atol=1e-6)
    np.testing.assert_allclose(first['var'], 0.9 + 0.1 * hidden.var(0), rtol=1e-4)
    # By the running ones each image is its latent's alone, and nothing moves.
    frozen, unmoved = model.generate(params, moved, latent, train=False)
    alone, _ = model.generate(params, moved, latent[:1], train=False)
    np.testing.assert_allclose(frozen[:1], alone, rtol=1e-5)
    assert not np.allclose(frozen, images)
    jax.tree.map(np.testing.assert_array_equal, unmoved, moved)


@pytest.mark.thorough
def test_residual_blocks_start_as_the_identity():
    with_blocks, without = (compiled(models.dcgan(
        (8, 8, 1), LATENT, (4, 3), (3, 4), blocks=blocks)) for blocks in (2, 0))
    params = with_blocks.init(jax.random.key(0))
    bare = {net: {name: value for name, value in params[net].items()
                  if 'Residual' not in name} for net in params}
    latent = jnp.ones((3, LATENT))
    images = with_blocks.generate(params, latent)
    np.testing.assert_array_equal(images, without.generate(bare, latent))
    np.testing.assert_array_equal(with_blocks.discriminate(params, images),
                                  without.discriminate(bare, images))


@pytest.mark.parametrize('name, channels', models.SMALL_DISCRIMINATORS.items())
def test_small_discriminators_are_small(name, channels):
    model = models.dcgan((28, 28, 3), 256, (64, 32), channels, packing=2)
    params = jax.eval_shape(model.init, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params['discriminator']))
    assert size < 3000 and params['discriminator']['Conv_0']['kernel'].shape[2] == 6
    logits = jax.eval_shape(model.discriminate, params, jnp.zeros((4, 28, 28, 6)))
    assert logits.shape == (4,)


def test_without_channels_a_net_is_a_perceptron():
    model = compiled(models.dcgan((5, 4, 3), LATENT, (), (), generator_widths=(4,),
                                  discriminator_widths=(3, 2)))
    params = model.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        'generator': {'Dense_0': {'kernel': (2, 4), 'bias': (4,)},
                      'Dense_1': {'kernel': (4, 60), 'bias': (60,)}},
        'discriminator': {'Dense_0': {'kernel': (60, 3), 'bias': (3,)},
                          'Dense_1': {'kernel': (3, 2), 'bias': (2,)},
                          'Dense_2': {'kernel': (2, 1), 'bias': (1,)}}}
    images = model.generate(params, jnp.ones((6, LATENT)))
    assert images.shape == (6, 5, 4, 3)
    assert model.discriminate(params, images).shape == (6,)


def test_what_is_refused():
    with pytest.raises(ValueError, match="normalisation is 'layer'; choose one of "
                                         'batch, group, none'):
        models.dcgan((8, 8, 1), normalisation='layer')
    with pytest.raises(ValueError, match='give .height, width, channels.'):
        models.dcgan((8, 8))
