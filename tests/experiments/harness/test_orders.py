"""Orders and per-block values: what a command line may say, and what it may not."""

import pytest

from experiments.harness.orders import parse_order, parse_per_block

BLOCKS = 'encoder', 'decoder'


@pytest.mark.parametrize('text, expected', [
    ('decoder,encoder', ('decoder', 'encoder')),
    ('decoder', ('decoder',)),
    ('encoder*3,decoder', ('encoder', 'encoder', 'encoder', 'decoder')),
    (' decoder * 2 , encoder', ('decoder', 'decoder', 'encoder')),
    ('encoder,decoder*1,encoder', ('encoder', 'decoder', 'encoder')),
    ('joint', ('joint',)),
    ('simultaneous', ('simultaneous',)),
])
def test_order(text, expected):
    assert parse_order(text, BLOCKS) == expected


@pytest.mark.parametrize('text, words', [
    ('decodr,encoder', ("'decodr'", 'encoder, decoder', "Did you mean 'decoder'?")),
    ('jiont', ("Did you mean 'joint'?",)),
    ('xyz', ("'xyz'", 'encoder, decoder, joint, simultaneous.')),
    ('', ("''", 'encoder*2,decoder')),
    ('decoder,', ("''",)),
    ('decoder;encoder', ("'decoder;encoder'",)),
    ('decoder*0', ("'decoder*0'", 'encoder*2,decoder')),
    ('decoder*-1', ("'decoder*-1'",)),
    ('decoder*1.5', ("'decoder*1.5'",)),
    ('decoder*' + '9' * 30, ('encoder*2,decoder',)),
    ('joint,encoder', ("'joint' moves everything", "'joint,encoder'")),
    ('joint*2', ("'joint' moves everything",)),
])
def test_bad_order(text, words):
    with pytest.raises(ValueError) as caught:
        parse_order(text, BLOCKS)
    message = str(caught.value)
    assert all(word in message for word in words) and '\n' not in message


def test_whole_orders_are_those_of_the_model():
    with pytest.raises(ValueError, match="unknown block 'joint'.*, simultaneous"):
        parse_order('joint', ('discriminator', 'generator'), ('simultaneous',))


@pytest.mark.parametrize('text, expected', [
    ('1e-3', [1e-3, 1e-3]),
    ('encoder=1e-3,decoder=5e-4', [1e-3, 5e-4]),
    ('decoder = 5e-4, encoder = 1', [1., 5e-4]),
])
def test_per_block(text, expected):
    assert parse_per_block(text, BLOCKS) == dict(zip(BLOCKS, expected))


@pytest.mark.parametrize('text, words', [
    ('-1e-3', ("'-1e-3'", 'numbers > 0')),
    ('0', ("'0'",)),
    ('nan', ("'nan'",)),
    ('inf', ("'inf'",)),
    ('fast', ("'fast'",)),
    ('', ("''",)),
    ('1e-3,1e-4', ("'1e-3,1e-4'",)),
    ('encoder=1e-3', ('no value for decoder',)),
    ('encoder=1e-3,decoder=-1', ("'-1'",)),
    ('encoder=1e-3,decodr=1', ("unknown block 'decodr'", "Did you mean 'decoder'?")),
    ('encoder=1e-3,decoder', ("''",)),
])
def test_bad_per_block(text, words):
    with pytest.raises(ValueError) as caught:
        parse_per_block(text, BLOCKS)
    message = str(caught.value)
    assert all(word in message for word in words) and '\n' not in message
