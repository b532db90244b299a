"""The text of the running Python: nothing lost, nothing in both splits."""

import builtins
import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from cdgm.data import python_docs
from cdgm.data.python_docs import split_topics
from cdgm.data.windows import windows

topics = pytest.importorskip('pydoc_data.topics').topics


@pytest.fixture(scope='module')
def dataset():
    return python_docs()


def text(dataset, split):
    return ''.join(dataset.vocabulary[token] for token in split.examples.ravel())


def paragraphs(text):
    return {' '.join(part.split()) for part in text.split('\n\n')} - {''}


def test_layout(dataset):
    assert dataset.name == 'python_docs' and dataset.validation is None
    assert list(dataset.vocabulary) == sorted(set(dataset.vocabulary))
    for split in dataset.train, dataset.test:
        assert split.examples.dtype == np.int32 and split.labels is None
        assert split.examples.shape[1] == 128 and split.examples.min() >= 0
        assert split.examples.max() < len(dataset.vocabulary)
    share = len(dataset.test.examples) / len(dataset.train.examples)
    assert 0.08 < share < 0.16


def test_every_paragraph_of_python_once():
    train, test = (paragraphs(part) for part in split_topics(topics))
    assert not train & test
    assert train | test == set().union(*map(paragraphs, topics.values()))


def test_test_windows_are_not_in_the_train_text(dataset):
    train = ' '.join(text(dataset, dataset.train).split())
    rows = [dataset.test._replace(examples=row) for row in dataset.test.examples]
    known = [' '.join(text(dataset, row).split()) in train for row in rows]
    assert np.mean(known) < 0.01


def test_tokens_spell_the_text(dataset):
    train, test = split_topics(topics)
    for split, whole in (dataset.train, train), (dataset.test, test):
        spelt = text(dataset, split)
        assert whole.startswith(spelt) and len(whole) - len(spelt) < 128


def test_sha256_is_of_the_text(dataset):
    whole = ''.join(split_topics(topics)).encode()
    assert dataset.sha256 == {'pydoc_data.topics': hashlib.sha256(whole).hexdigest()}


@pytest.mark.thorough
def test_order_does_not_depend_on_the_process(dataset):
    program = 'from cdgm.data import python_docs; print(python_docs().sha256)'
    for seed in '1', '2':
        seen = subprocess.run(
            [sys.executable, '-c', program], capture_output=True, text=True, check=True,
            env={**os.environ, 'PYTHONHASHSEED': seed, 'JAX_PLATFORMS': 'cpu'})
        assert seen.stdout.strip() == str(dataset.sha256)


def test_split_by_hand():
    many = '\n\n'.join(f'p{i}' for i in range(20))
    train, test = split_topics({'b': f'  p3\n\n{many}', 'a': 'p0\n\np1\n\np2'})
    assert train.split() == ['p0', 'p1', 'p2', 'p3', *(f'p{i}' for i in range(4, 18))]
    assert test.split() == ['p18', 'p19']


@pytest.mark.parametrize('length', [0, -1, 6])
def test_wrong_length(length):
    with pytest.raises(ValueError, match=re.escape(f'length is {length}; give')):
        windows('abcab', 'abc', length)


def test_needs_the_documentation(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'pydoc_data.topics':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match='python_docs.*install Python with it$'):
        python_docs()
