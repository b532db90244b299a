"""`load` knows every set by its name, and says what it knows."""

import pytest

from cdgm import data


def test_loads_by_name():
    assert data.load('digits').name == 'digits'
    assert list(data.DATASETS) == [
        'digits', 'mnist', 'binarized_mnist', 'fashion_mnist', 'stacked_digits',
        'stacked_mnist', 'python_docs', 'shakespeare', 'names', 'notes', 'fsdd',
        'folder']


@pytest.mark.parametrize('name', [
    'mnist', 'binarized_mnist', 'fashion_mnist', 'stacked_mnist'])
def test_data_dir_reaches_the_loader(name, tmp_path):
    with pytest.raises(data.DataError, match=str(tmp_path)):
        data.load(name, tmp_path)


@pytest.mark.parametrize('name, hint', [
    ('mnits', "; did you mean 'mnist'\\?$"), ('imagenet', 'folder$')])
def test_unknown_name(name, hint):
    with pytest.raises(ValueError, match=f"^unknown dataset '{name}': .*{hint}"):
        data.load(name)
