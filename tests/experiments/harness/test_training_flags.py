"""What the common flags mean together."""

import jax
import numpy as np
import pytest

from experiments.harness import block_choice, cli, errors, training_flags

BLOCKS = 'encoder', 'decoder'


def define_flags(values):
    training_flags.define_flags(values, order='decoder,encoder', learning_rate='1e-3',
                                batch_size=128, epochs=10, fresh_minibatches=False)


def parse(*arguments):
    return cli.parse(define_flags, arguments)


def read_order(*arguments):
    return training_flags.read_order(parse(*arguments), BLOCKS)


def test_defaults_are_those_of_the_experiment():
    order = read_order()
    assert order == training_flags.UpdatePlan(
        ('decoder', 'encoder'), BLOCKS, {'encoder': 1e-3, 'decoder': 1e-3}, None)


def test_joint_has_one_rate():
    order = read_order('--order=joint', '--learning_rate=0.01')
    assert order.updates == order.blocks == ('joint',)
    assert order.rates == {'joint': 0.01}


@pytest.mark.parametrize('name', block_choice.NAMES)
def test_every_schedule_chooses_among_the_blocks(name):
    order = read_order('--order=encoder*2,decoder', f'--schedule={name}')
    assert order.choice.build([1., 1.], jax.random.key(0)).num_blocks == 2


def test_shuffled_keeps_the_visits_and_uniform_their_share():
    def choices(name, steps):
        order = read_order('--order=encoder*3,decoder', f'--schedule={name}')
        schedule = order.choice.build([1., 1.], jax.random.key(0))
        return jax.jit(jax.vmap(schedule))(np.arange(steps))

    assert (choices('shuffled', 40).reshape(-1, 4).sum(axis=1) == 1).all()
    share = choices('uniform', 1000).mean()
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 1000) ** 0.5


@pytest.mark.parametrize('arguments, words', [
    (('--order=decodr,encoder',), ('--order', "Did you mean 'decoder'?")),
    (('--learning_rate=-1e-3',), ('--learning_rate', "'-1e-3'")),
    (('--learning_rate=critic=1e-3',), ('--learning_rate', "'critic'")),
    (('--order=joint', '--learning_rate=encoder=1e-3,decoder=1e-3'),
     ('--learning_rate', "'encoder'", 'joint')),
    (('--order=joint', '--schedule=shuffled'),
     ('--schedule=shuffled', '--order=joint')),
    (('--order=simultaneous', '--schedule=uniform'), ('--schedule=uniform',)),
])
def test_bad_order(arguments, words):
    with pytest.raises(errors.SettingError) as caught:
        read_order(*arguments)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize('arguments, cycles', [
    ((), 70), (('--epochs=0.5',), 4), (('--cycles=3',), 3),
    (('--batch_size=1000', '--epochs=1'), 1)])
def test_length(arguments, cycles):
    # A thousand images hold seven minibatches of 128.
    assert training_flags.read_cycles(parse(*arguments), 1000) == cycles


@pytest.mark.parametrize('arguments, words', [
    (('--batch_size=1001',), '--batch_size=1001 exceeds the 1000'),
    (('--epochs=0.01',), '--epochs=0.01 is less than one cycle')])
def test_bad_length(arguments, words):
    with pytest.raises(errors.SettingError, match=words):
        training_flags.read_cycles(parse(*arguments), 1000)


@pytest.mark.parametrize('argument, words', [
    ('--learing_rate=1', 'Did you mean: learning_rate'),
    ('--seeds=0', 'seeds'), ('--cycles=0', 'cycles'), ('--batch_size=0', 'batch_size'),
    ('--evaluations=0', 'evaluations'), ('--seeds=two', 'seeds'),
    ('--seed=-1', 'seed'), ('--seed=3000000000', 'seed'), ('--refresh=0', 'refresh'),
    ('--epochs=-1', 'epochs'), ('--epochs=nan', '--epochs=nan; give a finite'),
    ('--epochs=inf', '--epochs=inf; give a finite'), ('--dataset=mnits', 'mnist'),
    ('--schedule=cyclc', 'cyclic'), ('--flagfile=/no/such', '/no/such'),
    ('vae', "unexpected argument 'vae'")])
def test_bad_flag(argument, words):
    with pytest.raises(errors.SettingError) as caught:
        parse(argument)
    assert words in str(caught.value) and '\n' not in str(caught.value)
