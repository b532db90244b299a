"""Files come from the user's directory, the cache or the web; errors are one line."""

import builtins
import logging
import re

import pooch
import pytest

from cdgm.data.fetch import fetch
from cdgm.data.files import DataError

GOOD = b'four score and seven years ago'
NAME = 'speech.txt'
HASH = re.compile(r'\b[0-9a-f]{64}\b')


def fail(file, data_dir=None, folder='speeches'):
    """Fetch in vain, and return the message, which must be one line with the hash."""
    with pytest.raises(DataError) as caught:
        fetch(folder, [file], data_dir)
    message = str(caught.value)
    assert '\n' not in message
    assert file.sha256 in HASH.findall(message)
    return message


def put(folder, data, name=NAME):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(data)


def test_downloads_once(server, cache):
    file = server.publish(NAME, GOOD)
    first = fetch('speeches', [file])[NAME]
    assert first == (cache / 'speeches' / NAME, GOOD, file.sha256)
    server.close()
    assert fetch('speeches', [file])[NAME] == first
    assert server.hits == ['/' + NAME]
    assert [p.name for p in (cache / 'speeches').iterdir()] == [NAME]


@pytest.mark.parametrize('seen', [b'five score', GOOD[:-1]])
def test_altered_cache_is_downloaded_anew(server, cache, seen):
    put(cache / 'speeches', seen)
    file = server.publish(NAME, GOOD)
    assert fetch('speeches', [file])[NAME].data == GOOD
    assert (cache / 'speeches' / NAME).read_bytes() == GOOD


def test_altered_download(server, cache):
    wrong = b'x' * len(GOOD)
    file = server.publish(NAME, GOOD, body=wrong)
    message = fail(file)
    assert file.url in message and 'CDGM_DATA_DIR' in message
    assert len(HASH.findall(message)) == 2
    assert list((cache / 'speeches').iterdir()) == []


def test_truncated_download(server, cache):
    message = fail(server.publish(NAME, GOOD, body=GOOD[:7]))
    assert 'not downloaded' in message and NAME in message
    assert list((cache / 'speeches').iterdir()) == []


def test_failed_download_keeps_what_was_there(server, cache):
    put(cache / 'speeches', b'five score')
    fail(server.publish(NAME, GOOD, body=b'x' * len(GOOD)))
    assert (cache / 'speeches' / NAME).read_bytes() == b'five score'


def test_not_found(server, cache):
    message = fail(server.publish(NAME, GOOD, body=b'', status=404)._replace(
        url=f'{server.url}/gone.txt'))
    assert f'{server.url}/gone.txt: not downloaded (404 Not Found' in message


def test_server_down(server, cache):
    file = server.publish(NAME, GOOD)
    server.close()
    message = fail(file)
    assert f'{file.url}: not downloaded (ConnectionError' in message
    assert 'CDGM_DATA_DIR' in message


def test_unwritable_cache(server, cache):
    # A file where the directory should be: fails for every user, root as well.
    cache.write_text('')
    file = server.publish(NAME, GOOD)
    with pytest.raises(DataError) as caught:
        fetch('speeches', [file])
    message = str(caught.value)
    assert '\n' not in message
    assert f"{cache / 'speeches' / NAME}: cannot be written" in message
    assert 'CDGM_DATA_DIR' in message


def test_pooch_is_quiet(server, cache, caplog):
    logger = pooch.get_logger()
    level = logger.level
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO):
            fetch('speeches', [server.publish(NAME, GOOD)])
    finally:
        logger.removeHandler(caplog.handler)
    names = [record.name for record in caplog.records if record.levelno >= logging.INFO]
    assert names == ['cdgm.data.download'] and logger.level == level


def test_needs_pooch(monkeypatch):
    monkeypatch.delenv('CDGM_DATA_DIR', raising=False)
    real = builtins.__import__

    def without_pooch(name, *args, **kwargs):
        if name == 'pooch':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_pooch)
    with pytest.raises(ImportError, match=r'pip install cdgm\[experiments\]$'):
        fetch('speeches', [])


@pytest.mark.parametrize('named', ['speeches', 'old-speeches', 'old_speeches'])
@pytest.mark.parametrize('by_env', [False, True])
def test_data_dir(server, cache, tmp_path, monkeypatch, named, by_env):
    folder = named.replace('_', '-')
    put(tmp_path / 'mine' / named, GOOD)
    file = server.publish(NAME, GOOD)
    if by_env:
        monkeypatch.setenv('CDGM_DATA_DIR', str(tmp_path / 'mine'))
        content = fetch(folder, [file])
    else:
        content = fetch(folder, [file], tmp_path / 'mine')
        assert fetch(folder, [file], str(tmp_path / 'mine' / named)) == content
    assert content[NAME] == (tmp_path / 'mine' / named / NAME, GOOD, file.sha256)
    assert server.hits == [] and not cache.exists()


def test_argument_precedes_environment(server, tmp_path, monkeypatch):
    put(tmp_path / 'mine' / 'speeches', GOOD)
    monkeypatch.setenv('CDGM_DATA_DIR', str(tmp_path / 'nowhere'))
    file = server.publish(NAME, GOOD)
    assert fetch('speeches', [file], tmp_path / 'mine')[NAME].data == GOOD


def test_repacked_is_accepted_in_data_dir(server, tmp_path):
    put(tmp_path / 'speeches', b'repacked')
    other = server.publish('other.txt', b'repacked')
    file = server.publish(NAME, GOOD)._replace(repacked=(other.sha256,))
    assert fetch('speeches', [file], tmp_path)[NAME].sha256 == other.sha256


@pytest.mark.parametrize('made', ['mine/speeches', 'mine'])
def test_missing_in_data_dir_is_not_downloaded(server, cache, tmp_path, made):
    (tmp_path / made).mkdir(parents=True)
    file = server.publish(NAME, GOOD)
    message = fail(file, tmp_path / 'mine')
    path = tmp_path / 'mine' / 'speeches' / NAME
    assert message.startswith(f'{path}: No such file or directory')
    assert f'fetch {file.url} into {path.parent}' in message
    assert server.hits == [] and not cache.exists()


@pytest.mark.parametrize('seen', [b'five score', GOOD[:-1], b''])
def test_altered_in_data_dir(server, cache, tmp_path, seen):
    put(tmp_path / 'mine' / 'speeches', seen)
    file = server.publish(NAME, GOOD)
    message = fail(file, tmp_path / 'mine')
    assert message.startswith(f"{tmp_path / 'mine' / 'speeches' / NAME}: sha256 is ")
    assert len(HASH.findall(message)) == 2 and f'fetch {file.url}' in message
    assert server.hits == []


def test_missing_data_dir(tmp_path, monkeypatch):
    with pytest.raises(DataError, match='^data_dir=.*nowhere: no such directory'):
        fetch('speeches', [], tmp_path / 'nowhere')
    monkeypatch.setenv('CDGM_DATA_DIR', str(tmp_path / 'nowhere'))
    with pytest.raises(DataError, match='^CDGM_DATA_DIR=.*nowhere: no such directory'):
        fetch('speeches', [])
