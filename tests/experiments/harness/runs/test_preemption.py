"""Processes that are killed or asked to leave end at the bits of an undisturbed one."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.harness import cli
from experiments.harness.runs import preemption, status_log
from experiments.harness.runs.run_folder import read_rows

ROOT = Path(__file__).parents[4]
LATENCY = 5.

# What a process does that is about to lose something, or has nothing to lose.
WAIT = '''
import sys, time
from pathlib import Path
from experiments.harness.runs import preemption
with preemption.handle_signals(float(sys.argv[1])):
    preemption.saved(7, Path('there'))
    exec(sys.argv[2])
    print('ready', flush=True)
    time.sleep(30)
'''


def start(arguments, **options):
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def ends(latency, setting, *signals):
    """Status and words of a process that gets signals while it sleeps."""
    with start(['-c', WAIT, str(latency), setting]) as process:
        process.stdout.readline()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        words = process.communicate(timeout=60)[1]
    return process.returncode, words


SAID = 'preempted at cycle 7; run the same command again, with --run_dir=there, to ' \
    'continue\n'


@pytest.mark.parametrize('number', preemption._SIGNALS)
def test_leaves_at_once_where_nothing_would_be_lost(number):
    assert ends(1000, '', number) == (75, SAID)


def test_leaves_when_the_bound_has_passed():
    assert ends(0.5, 'preemption.mark_dirty()', signal.SIGTERM) == (75, SAID)


FAREWELL = '''
said = preemption.on_exit(lambda: print('farewell', file=sys.stderr))
said.__enter__()
'''


@pytest.mark.parametrize('latency, place',
                         [(1000, ''), (0.5, 'preemption.mark_dirty()')])
def test_farewells_are_said(latency, place):
    assert ends(latency, FAREWELL + place, signal.SIGTERM) == (75, 'farewell\n' + SAID)


def test_a_farewell_that_is_over_is_not_said():
    over = FAREWELL + 'said.__exit__(None, None, None)'
    assert ends(1000, over, signal.SIGTERM) == (75, SAID)


def test_leaves_though_a_farewell_fails():
    failing = 'failing = preemption.on_exit(lambda: 1 / 0)\nfailing.__enter__()'
    assert ends(1000, failing + FAREWELL, signal.SIGTERM) == (75, 'farewell\n' + SAID)


def test_what_is_said_can_be_chosen():
    assert ends(1000, "preemption.mark_safe('so')", signal.SIGTERM) == (75, 'so\n')


def test_a_second_interrupt_ends_it():
    assert ends(1000, 'preemption.mark_dirty()', signal.SIGINT, signal.SIGINT) == (
        130, 'interrupted twice\n')


def test_a_complete_run_has_nothing_to_leave():
    with start(['-c', WAIT.replace('30', '1'), '1000',
                'preemption.finished()']) as process:
        process.stdout.readline()
        process.terminate()
        assert process.communicate(timeout=60)[1] == ''
    assert process.returncode == 0


START = 'preempted at cycle 0; run the same command again to continue\n'


def test_another_run_may_be_left_again():
    assert ends(1000, 'preemption.finished(); preemption.begin_run()',
                signal.SIGTERM) == (75, START)


def test_no_other_run_begins_once_asked_to_leave():
    begins = WAIT.replace('sleep(30)', '''sleep(1)
    try:
        preemption.begin_run()
    except preemption.PreemptedError as error:
        sys.exit(str(error))
    ''')
    with start(['-c', begins, '1000', 'preemption.finished()']) as process:
        process.stdout.readline()
        process.terminate()
        assert process.communicate(timeout=60)[1] == START
    assert process.returncode == 1, 'by the exception, not from the thread'


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in preemption._SIGNALS]
    with preemption.handle_signals(1.):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in preemption._SIGNALS] == before


def test_the_status_and_the_line(capsys):
    with pytest.raises(SystemExit) as caught, cli.one_line_errors():
        preemption.leave()
    assert caught.value.code == 75
    error = capsys.readouterr().err
    assert error.startswith('preempted at cycle ') and error.count('\n') == 1


COMMAND = ('-m', 'experiments.vae', '--hidden=8', '--latent=3', '--cycles=2000',
           '--evaluations=3', '--seeds=2', '--schedule=bandit',
           '--checkpoint_every=0.2', f'--preempt_latency={LATENCY}')


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """folder -> process of a run; programs are compiled once for all."""
    programs = tmp_path_factory.mktemp('programs')
    environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(programs),
                   'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    return lambda folder: start([*COMMAND, f'--run_dir={folder}'], env=environment)


@pytest.fixture(scope='module')
def undisturbed(command, tmp_path_factory):
    """(params, rows, seconds) of a run; its programs are compiled already."""
    for attempt in 'compiling', 'run':
        folder = tmp_path_factory.mktemp('undisturbed') / attempt
        began = time.monotonic()
        with command(folder) as process:
            assert process.communicate()[1] == ''
        assert process.returncode == 0
    return *results(folder), time.monotonic() - began


def results(folder):
    rows = [{name: value for name, value in row.items() if name != 'seconds'}
            for row in read_rows(folder)]
    return (folder / 'params.npz').read_bytes(), rows


def disturb(command, folder, number, moment):
    """Status, words and seconds to leave of a run that gets a signal at a moment."""
    with command(folder) as process:
        try:
            return *process_end(process, moment), 0.
        except subprocess.TimeoutExpired:
            sent = time.monotonic()
            process.send_signal(number)
            return *process_end(process, 60), time.monotonic() - sent


def process_end(process, timeout):
    words = process.communicate(timeout=timeout)[1]
    return process.returncode, words


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_thirty_signals_at_random_moments(number, command, undisturbed, tmp_path):
    """Three a run, so that what one leaves meets another."""
    *wanted, seconds = undisturbed
    draw, left = random.Random(number), []
    for run in itertools.count():
        if len(left) >= 30:
            break
        folder = tmp_path / str(run)
        for share in (*(draw.uniform(0.1, 1) for _ in range(3)), 100):
            status, words, took = disturb(command, folder, number, share * seconds)
            if status == 75:
                assert status_log.state_of(folder).name in ('pending', 'preempted')
                assert words.startswith('preempted at cycle ')
                assert words.count('\n') == 1
                left.append((words.split(';')[0], round(took, 1)))
            # While Python starts or stops, TERM ends a process as it always does.
            elif status == -number:
                assert words == ''
                left.append(('killed', round(took, 1)))
                if status_log.state_of(folder).name == 'done':
                    break
            else:
                assert (status, words) == (0, '')
                if share < 1:  # over before the signal: the machine was busier before
                    seconds *= 0.9
                break
        assert list(results(folder)) == wanted
        print(run, left[-3:], flush=True)
    print(f'{len(left)} of {len(left)}; longest {max(took for _, took in left)} s')
