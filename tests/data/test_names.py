import numpy as np
import pytest

from cdgm.data.files import DataError
from cdgm.data.names import names, names_text, spell, tokenise, unseen


def test_words_come_back():
    words = ['emma', 'ava', 'maximilianmaxim']
    tokens, lengths = tokenise(words)
    assert spell(tokens) == words and lengths.tolist() == [5, 4, 16]
    assert tokens.shape == (3, 16) and tokens.dtype == np.int32


@pytest.mark.parametrize('word, what', [
    ('', 'is empty'), ('zoë', "has 'ë'"), ('a' * 16, 'has 16 letters')])
def test_what_is_no_name_is_refused(word, what):
    with pytest.raises(ValueError, match=what):
        tokenise(['emma', word])


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match='names.txt'):
        names(tmp_path)


def test_the_lecture_split_is_that_of_the_notebooks(real_folder):
    """Counts of names and of symbols, as the published notebooks print them."""
    data = names(real_folder('names').parent)
    parts = data.train, data.validation, data.test
    assert [len(part.examples[0]) for part in parts] == [25_626, 3203, 3204]
    assert [part.examples[1].sum() for part in parts] == [182_625, 22_655, 22_866]
    new = unseen(data.test.examples[0], data.train.examples[0])
    np.testing.assert_allclose(1 - new.mean(), 0.118, atol=5e-4)


def test_as_a_text_they_are_the_same_names(real_folder):
    folder = real_folder('names').parent
    apart, text = names(folder), names_text(folder, length=8)
    for words, split in (apart.train, text.train), (apart.test, text.test):
        tokens = split.examples.reshape(-1)
        whole = np.concatenate([row[:count] for row, count in zip(*words.examples)])
        np.testing.assert_array_equal(tokens, whole[:len(tokens)])
        assert len(whole) - len(tokens) < 8
    assert text.vocabulary == '\nabcdefghijklmnopqrstuvwxyz'
