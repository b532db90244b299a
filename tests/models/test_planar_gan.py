import jax
import numpy as np
import pytest

from cdgm import models


def norm(x, scale, bias):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias


def test_planar_nets_are_layers_of_tanh(fill):
    model = models.planar_gan(latent_size=3, widths=(4, 5), packing=2)
    params = fill(model.init)
    x = np.random.default_rng(0).normal(size=(6, 4))
    for name, given, run in (('generator', x[:, :3], model.generate),
                             ('discriminator', x, model.discriminate)):
        layers = list(params[name].values())
        assert [len(layer['bias']) for layer in layers[:-1]] == [4, 5]
        expected = given
        for layer in layers[:-1]:
            expected = np.tanh(expected @ layer['kernel'] + layer['bias'])
        expected = expected @ layers[-1]['kernel'] + layers[-1]['bias']
        np.testing.assert_allclose(np.reshape(run(params, given), expected.shape),
                                   expected, rtol=1e-10)


def test_pac_gan_normalises_and_takes_the_largest_piece(fill):
    model = models.pac_gan(latent_size=3, generator_widths=(4, 4),
                           discriminator_widths=(5,), pieces=3, packing=2)
    params = fill(model.init)
    x = np.random.default_rng(0).normal(size=(6, 4))
    nets = params['generator']
    expected = x[:, :3]
    for index in range(2):
        scale, bias = (nets[f'BatchNorm_{index}'][name] for name in ('scale', 'bias'))
        expected = np.maximum(norm(expected @ nets[f'Dense_{index}']['kernel'],
                                   scale[None], bias[None]), 0)
    last = nets['Dense_2']
    np.testing.assert_allclose(model.generate(params, x[:, :3]),
                               expected @ last['kernel'] + last['bias'], rtol=1e-8)
    first, last = (params['discriminator'][f'Dense_{index}'] for index in range(2))
    pieces = (x @ first['kernel'] + first['bias']).reshape(6, 5, 3)
    logits = pieces.max(-1) @ last['kernel'] + last['bias']
    np.testing.assert_allclose(model.discriminate(params, x), logits[:, 0], rtol=1e-10)


def test_the_defaults_are_those_of_the_papers(key):
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(
        models.planar_gan().init, key))
    assert shapes['generator']['Dense_0']['kernel'] == (256, 128)
    assert shapes['discriminator']['Dense_1']['kernel'] == (128, 128)
    shapes = jax.tree.map(lambda x: x.shape, jax.eval_shape(
        models.pac_gan(packing=4).init, key))
    assert shapes['generator']['Dense_3'] == {'kernel': (400, 400)}
    assert shapes['discriminator']['Dense_0']['kernel'] == (8, 1000)
    assert 'Dense_4' in shapes['generator'] and 'Dense_3' in shapes['discriminator']


@pytest.mark.parametrize('make', [models.planar_gan, models.pac_gan])
@pytest.mark.parametrize('name', ['dimensions', 'latent_size', 'packing'])
def test_sizes_are_positive(make, name):
    with pytest.raises(ValueError, match=f'{name} is 0'):
        make(**{name: 0})
