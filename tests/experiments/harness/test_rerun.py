"""A run that is repeated is compared with its manifest, and what differs is said."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from experiments.harness import cli, rerun
from experiments.harness.errors import SettingError
from experiments.harness.runs import preemption, run_folder, status_log

# As in test_worker.py, which may have compiled it.
TINY = ('--hidden=4', '--latent=3', '--cycles=4', '--evaluations=2',
        '--learning_rate=1e-2', '--seed=1')
VERDICT = '{} gave the same parameters and metrics again, bit for bit\n'


@pytest.fixture
def complete(run, tmp_path):
    """The folder of a complete run, to be changed at will."""
    return shutil.copytree(run('vae', *TINY), tmp_path / 'complete')


@pytest.fixture
def again(complete, tmp_path, monkeypatch):
    """A folder in which that run has been repeated, and which the test may change."""
    folder = shutil.copytree(complete, tmp_path / 'repeated')
    monkeypatch.setattr(rerun, 'repeat',
                        lambda path, again, *_: shutil.copytree(folder, again))
    return folder


def call(*arguments):
    rerun.main(arguments[0], cli.parse(rerun.define_flags, arguments[1:]))


def ends(capsys, *arguments):
    """Status and words of a repetition."""
    try:
        call(*arguments)
        status = 0
    except SystemExit as error:
        status = error.code
    return status, capsys.readouterr().out


def change(path, **fields):
    manifest = json.loads((path / 'manifest.json').read_text())
    (path / 'manifest.json').write_text(json.dumps({**manifest, **fields}))


def declare(path):
    """Make the digests those of the files, as a run does at its end."""
    change(path, digests=run_folder.digests(path))


def change_rows(path, alter):
    rows = run_folder.read_rows(path)
    alter(rows)
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def change_params(path, alter):
    with np.load(path / 'params.npz') as leaves:
        params = dict(leaves)
    alter(params)
    np.savez(path / 'params.npz', **params)


@pytest.mark.thorough
def test_a_run_gives_the_same_bits_again(complete, tmp_path, capsys,
                                         cheap_compilation):
    kept = tmp_path / 'kept'
    with jax.enable_x64(False), cheap_compilation():
        call(complete, f'--out_dir={kept}', '--checkpoint_every=7')
    said = capsys.readouterr().out
    assert said.endswith(f'\nidentical: {VERDICT.format(complete)}')
    assert not re.search('was .* and is', said)
    assert status_log.read_manifest(kept)['digests'] == run_folder.digests(complete)
    # The manners are those of this command, not of the run's.
    assert '--checkpoint_every=7' in (kept / 'flags.txt').read_text()


def test_nothing_is_left_behind(complete, again, tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    made = rerun.repeat

    def leaves(path, where, *rest):
        made(path, where, *rest)
        for callback in preemption._exit_callbacks:
            callback()
        assert not where.exists()
        preemption.leave()

    call(complete)
    assert list((tmp_path / 'temporary').iterdir()) == []
    monkeypatch.setattr(rerun, 'repeat', leaves)
    with pytest.raises(preemption.PreemptedError):
        call(complete)
    assert list((tmp_path / 'temporary').iterdir()) == []


@pytest.mark.parametrize('name', ['params', 'metrics'])
def test_a_manifest_with_another_digest(complete, again, capsys, name):
    digests = status_log.read_manifest(complete)['digests']
    change(complete, digests={**digests, name: 'f' * 64})
    assert ends(capsys, complete) == (1, (
        f'altered: the {name} in {complete} are not those that its manifest has the '
        f'digests of\ndifferent: the {name} of {complete}\n'))


@pytest.mark.parametrize('file, name', [('params.npz', 'params'),
                                        ('metrics.jsonl', 'metrics')])
@pytest.mark.parametrize('damage', [lambda path: path.unlink(),
                                    lambda path: path.write_bytes(b'damaged')])
def test_files_that_were_damaged_since(complete, again, capsys, file, name, damage):
    damage(complete / file)
    status, said = ends(capsys, complete)
    assert status == 1 and said.startswith('altered: the ') and name in said
    assert said.endswith(f'identical: {VERDICT.format(complete)}')


def test_metrics_that_part(complete, again, capsys):
    def alter(rows):
        rows[2]['loss']['decoder'][0] *= 1 + 1e-3
        rows[2]['seconds'] = 99.
        rows[3]['loss']['decoder'][0] = 0.

    change_rows(again, alter)
    declare(again)
    status, said = ends(capsys, complete)
    assert (status, said) == (1, (
        f'different: the metrics of {complete}; the metrics part in row 3 at '
        'loss.decoder.0, by at most 1.0e-03 there\n'))


@pytest.mark.parametrize('alter, words', [
    (lambda rows: rows.pop(), 'there were 5 rows of metrics and are 4'),
    (lambda rows: rows[1].pop('loss'), 'in row 2 at loss.encoder.0, by at most inf'),
    (lambda rows: rows[1].update(new=1.), 'part in row 2 at new, by at most inf'),
    (lambda rows: rows[1]['loss'].update(decoder=[float('nan')]),
     'in row 2 at loss.decoder.0, by at most inf')])
def test_rows_that_are_not_there(complete, again, capsys, alter, words):
    change_rows(again, alter)
    declare(again)
    status, said = ends(capsys, complete)
    assert status == 1 and words in said and said.count('\n') == 1


def test_a_loss_that_was_no_number_both_times_is_the_same(complete, again, capsys):
    for path in complete, again:
        change_rows(path, lambda rows: rows[1].update(new=[float('nan')]))
        declare(path)
    change_rows(again, lambda rows: rows[2].update(new=1.))
    declare(again)
    assert 'part in row 3 at new' in ends(capsys, complete)[1]


def test_parameters_that_differ(complete, again, capsys):
    def alter(params):
        name = min(params)
        params[name] = params[name] + np.float32(0.5)

    change_params(again, alter)
    declare(again)
    assert ends(capsys, complete) == (1, (
        f'different: the params of {complete}; the metrics are the same, the '
        'parameters differ by up to 5.0e-01\n'))
    change_params(again, lambda params: params.pop(min(params)))
    declare(again)
    assert 'the parameters have other shapes' in ends(capsys, complete)[1]


def test_other_circumstances_are_said(complete, again, capsys):
    change(complete, commit='abc', cores=99, versions={'jax': '0.1'}, device='TPU',
           devices=4, xla_flags='--fast', data={'train': '0'}, host='elsewhere')
    (complete / 'uncommitted.diff').write_text('+ 1\n')
    (again / 'uncommitted.diff').unlink(missing_ok=True)
    status, said = ends(capsys, complete)
    *lines, verdict = said.splitlines(keepends=True)
    assert (status, verdict) == (0, f'identical: {VERDICT.format(complete)}')
    assert [line.split()[0] for line in lines] == list(rerun._MEANINGS)
    assert lines[0].startswith('commit was "abc" and is ')
    assert 'cores was 99 and is ' in said and 'uncommitted was "' in said
    assert all(len(line) < 220 and ': ' in line for line in lines)
    # Changes to the code differ by what they are, too.
    (again / 'uncommitted.diff').write_text('+ 2\n')
    assert re.search('uncommitted was "[0-9a-f]{12}" and is "[0-9a-f]{12}": other code',
                     ends(capsys, complete)[1])
    (again / 'uncommitted.diff').write_text('+ 1\n')
    assert 'uncommitted' not in ends(capsys, complete)[1]


@pytest.mark.parametrize('spoil', [
    lambda path: change(path, digests=None) or _drop(path, 'digests'),
    lambda path: (path / 'manifest.json').unlink(),
    lambda path: (path / 'manifest.json').write_text('{'),
    lambda path: shutil.rmtree(path),
    lambda path: shutil.rmtree(path) or path.write_text('a file')])
def test_an_incomplete_run(complete, spoil, monkeypatch):
    monkeypatch.setattr(rerun, 'repeat', None)
    spoil(complete)
    with pytest.raises(SettingError) as caught:
        call(complete)
    assert str(caught.value) == (f'{complete} holds no complete run; name a folder '
                                 'whose manifest.json has digests.')


def _drop(path, name):
    manifest = json.loads((path / 'manifest.json').read_text())
    del manifest[name]
    (path / 'manifest.json').write_text(json.dumps(manifest))
