"""The report of a sweep: what the runs say, whole or not, and nothing else."""

import base64
import csv
import hashlib
import html.parser
import json
import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from experiments.harness.report import figures
from experiments.harness.report import sweep_report, tables, text
from experiments.harness.report.compare import over_seeds, pool
from experiments.harness.runs import status_log
from experiments.harness.runs.run_lock import RunLock
from experiments.harness.sweep import spec
from experiments.harness.sweep.spec import Row, Sweep, Table, Trial

NAN = float('nan')


class Page(html.parser.HTMLParser):
    """Collects the tags and the text of a page, and checks that tags are closed."""

    void = 'meta', 'img', 'br'

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.text, self.rows, self.pre = [], [], '', [], []
        self.feed(path.read_text(encoding='utf-8'))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            best = 'best' in dict(attributes).get('class', '').split()
            self.rows[-1].append('*' if best else '')
        if tag == 'pre':
            self.pre.append('')

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {'td', 'th'} & set(self.open):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == 'pre':
            self.pre[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, name):
        """Cells of the first row of this name; a star before what is in bold."""
        return next(row[1:] for row in self.rows if row[0] == name)


class Maker:
    """Makes trials, rows and the folders of runs by hand."""

    def __init__(self, folder):
        self.folder, self.trials = folder, {}

    def trial(self, *arguments):
        name = hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]
        self.trials[name] = Trial('vae', arguments, name)
        return name

    def row(self, name, *runs, variant=''):
        """A row whose runs are (gflop, test metric at the end), or None if pending."""
        names = [self.trial(f'--order={name}', f'--variant={variant}', f'--seed={seed}')
                 for seed in range(len(runs))]
        for trial, run in zip(names, runs):
            if run:
                self.write(trial, [(0, 0., 9.), (2, run[0], run[1])])
        return Row(name, {variant: tuple(names)})

    def path(self, trial):
        path = self.folder / self.trials[trial].folder
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, trial, tests, losses=(3., 2.), **facts):
        """Write a run that is done; `tests` are (sweep, gflop, metric)."""
        path = self.path(trial)
        rows = [{'cycle': at, 'gflop': gflop, 'seconds': 2. * at,
                 'test': {'neg_elbo': [value]}} for at, gflop, value in tests]
        steps = np.linspace(0, tests[-1][0], len(losses) + 1)[1:]
        rows += [{'cycle': at, 'gflop': 0., 'seconds': 0., 'loss': {'a': [loss]}}
                 for at, loss in zip(steps, losses)]
        rows.sort(key=lambda row: (row['cycle'], 'test' in row))
        (path / 'metrics.jsonl').write_text(
            ''.join(json.dumps(row) + '\n' for row in rows))
        status_log.began(path, 0)
        status_log.ended(path, 'done')
        (path / 'manifest.json').write_text(json.dumps({
            'python': '3.11', 'versions': {'numpy': '2', 'jax': '0.10'}, 'devices': 1,
            'device': 'cpu <8>', 'cores': 2, 'commit': 'c0ffee', 'uncommitted': False,
            'digests': {}, **facts}))
        return path

    def fail(self, trial, kind, reason):
        status_log.began(self.path(trial), 0)
        status_log.ended(self.path(trial), 'failed', kind, reason)

    def sweep(self, *rows, about='What is compared.'):
        return Sweep('hand', 'Two & <more>', about, tuple(self.trials.values()), tuple(
            Table(f'Table {number}', '', 'vae', 'neg_elbo', 'nats < bits', tuple(mine))
            for number, mine in enumerate(rows)))


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """Folder, sweep and page of a sweep with every kind of row."""
    folder = tmp_path_factory.mktemp('report') / "it's <here>"
    make = Maker(folder)
    rows = [
        make.row('joint', (4., 5.), (4., 7.)), make.row('a <b>', (8., 3.), (8., 5.)),
        make.row('half', (4., 4.9), None), make.row('later', None, None),
        make.row('lost', (4., NAN), (4., 3.)), make.row('broken', None)]
    broken, = rows[-1].variants['']
    make.fail(broken, 'diverged', 'the loss of <script>alert(1)</script> is nan')
    make.fail(broken, 'diverged', 'the loss of <script>alert(1)</script> is nan')
    (make.path(broken) / 'crash.txt').write_text('a trace')
    other, _ = rows[1].variants['']
    path = make.write(other, [(0, 0., 9.), (2, 8., 3.)], commit=None)
    figures.grid(path / 'samples.png', np.eye(8)[None, :, :, None].repeat(8, 0))
    value = make.sweep(rows)
    spec.save(value, folder)
    return folder, value, Page(sweep_report.write(value, folder))


def test_needs_nothing_else(shown):
    folder, _, page = shown
    text = (folder / 'report.html').read_text()
    assert 'http' not in text and 'url(' not in text and '@import' not in text
    assert not page.all('script') and not page.all('link') and not page.all('iframe')
    images = [image['src'].split(',') for image in page.all('img')]
    # Three panels of curves, the losses of four rows, the samples of one.
    assert [head for head, _ in images] == [
        *['data:image/svg+xml;base64'] * 7, 'data:image/png;base64']
    assert all(image['alt'] for image in page.all('img'))
    *drawn, samples = (base64.b64decode(data, validate=True) for _, data in images)
    assert samples.startswith(b'\x89PNG\r\n')
    for svg in drawn:
        assert ElementTree.fromstring(svg).tag.endswith('svg')
        # The names of the two languages are no addresses to fetch from.
        assert svg.count(b'http') == svg.count(b'xmlns') == 2
        assert b'metadata' not in svg and b'currentColor' in svg


def test_says_what_the_runs_say(shown):
    _, _, page = shown
    assert page.rows[0] == ['', 'at 2 cycles', 'at 4.00 GFLOP', 'seeds', 'GFLOP',
                            'seconds']
    # At two sweeps each, and at 4 GFLOP, half of the second row's runs.
    assert page.row('joint') == ['6.0 ± 1.0', '6.0 ± 1.0', '2', '4.00', '4.00']
    assert page.row('a <b>') == ['*4.0 ± 1.0', '6.5 ± 0.5', '2', '8.00', '4.00']


def test_bold_is_the_best_and_what_is_within_its_error(shown):
    _, _, page = shown
    # 4.9 is within 4 ± 1, and alone when it is itself the best, of one seed.
    assert page.row('half') == ['*4.9', '*4.9', '1 of 2', '4.00', '4.00']


def test_what_is_not_there_is_no_number(shown):
    _, _, page = shown
    assert page.row('later') == ['–', '–', '0 of 2', '–', '–']
    assert page.row('lost')[:3] == ['not finite', 'not finite', '2']
    assert ('11 trials: 7 done, 0 running, 0 preempted, 3 pending, 1 failed.'
            in page.text)


def test_lists_failures(shown):
    folder, value, page = shown
    broken = value.trials[-1]
    kind, reason, trial, tried = page.rows[-1]
    assert (kind, tried) == ('diverged', '2')
    assert reason == ('the loss of <script>alert(1)</script> is nan'
                      f'Its trace: {folder / broken.folder / "crash.txt"}')
    assert trial == './launch.sh vae --order=broken --variant= --seed=0'
    assert {'href': '#failures'} in page.all('a')


def test_says_how_to_repeat_each_trial(shown):
    folder, value, page = shown
    commands = [shlex.split(line) for text in page.pre for line in text.splitlines()]
    for trial in value.trials:
        assert ['./launch.sh', 'vae', *trial.arguments] in commands
        again = ['./launch.sh', 'rerun', str(folder / trial.folder)]
        done = (folder / trial.folder / 'metrics.jsonl').exists()
        assert (again in commands) == done


def test_tells_where_the_runs_were_made(shown):
    _, _, page = shown
    where = 'Python 3.11, jax 0.10, numpy 2; 1 × cpu <8>, 2 cores; commit'
    assert f'6 runs: {where} c0ffee.1 run: {where} unknown.' in page.text


@pytest.fixture(scope='module')
def tuned(tmp_path_factory):
    """Folder, sweep and page of seven rows with random curves, the first one tuned."""
    folder = tmp_path_factory.mktemp('tuned')
    make, rng = Maker(folder), np.random.default_rng(0)

    def row(name, variants, end):
        chosen = {}
        for variant, loss in variants.items():
            chosen[variant] = tuple(make.trial(f'--order={name}', variant, str(seed))
                                    for seed in range(3))
            for trial in chosen[variant]:
                gflop = np.cumsum(rng.uniform(1, 2, 6))
                make.write(trial, [
                    (3 * at, spent, end + rng.normal() / (1 + at) - loss)
                    for at, spent in enumerate(gflop - gflop[0])],
                    losses=np.linspace(9., 1., 20) * loss)
        return Row(name, chosen)

    # The first has the better test metric, the second the lower training loss.
    rows = [row('several', {'rate=1': 3., 'rate=2': 2.}, 5.),
            *(row(f'row {end}', {'rate=1': 1.}, end) for end in (9., 4., 5., 6., 7.)),
            row('row 8', {'rate=2': 1.}, 8.)]
    value = make.sweep(rows)
    spec.save(value, folder)
    return folder, value, Page(sweep_report.write(value, folder))


def test_numbers_are_numpys(tuned):
    folder, value, page = tuned
    read = {}
    for trial in value.trials:
        lines = (folder / trial.folder / 'metrics.jsonl').read_text().splitlines()
        read[trial.id] = np.array([
            [row['cycle'], row['gflop'], *row['test']['neg_elbo']]
            for row in map(json.loads, lines) if 'test' in row]).T
    shown = [row.variants.get('rate=2') or row.variants['rate=1']
             for row in value.tables[0].rows]
    budget = min(read[name][1][-1] for names in shown for name in names)
    with open(folder / 'tables.csv', newline='') as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(shown) == 7
    for line, names in zip(lines, shown):
        ends = [read[name][2][-1] for name in names]
        spent = [np.interp(budget, *read[name][1:]) for name in names]
        for column, values in ('at_cycles', ends), ('at_gflop', spent):
            mean, error = np.mean(values), np.std(values, ddof=1) / 3 ** 0.5
            np.testing.assert_allclose(float(line[column]), mean, rtol=1e-14)
            np.testing.assert_allclose(float(line[f'{column}_error']), error,
                                       rtol=1e-12)
            assert f'{mean:.3f} ± {error:.3f}' in [
                cell.strip('*') for cell in page.row(line['row'])]
        assert (line['cycles'], float(line['gflop'])) == ('15.0', budget)
        assert line['seconds_a_seed'] == '30.0' and line['seeds'] == '3'
        np.testing.assert_allclose(float(line['gflop_a_seed']), np.mean(
            [read[name][1][-1] for name in names]))


def test_tuning_looks_at_the_training_loss_alone(tuned):
    _, _, page = tuned
    assert page.rows[0][-1] == 'rate'
    assert page.row('several')[-1] == '2'
    assert 'Of each row the one of 1 or 2 variants' in page.text
    # The last two of twenty: 9 less 18/19 and 19/19 of 8.
    assert ['several', 'rate=1', f'{3 * (1 + 4 / 19):#.5g}', '3 of 3'] in page.rows
    assert ['several', '*rate=2', f'{2 * (1 + 4 / 19):#.5g}', '3 of 3'] in page.rows


def test_a_terminal_shows_what_the_page_does(tuned):
    folder, value, page = tuned
    printed = list(text.lines(value, folder))
    for row in page.rows[1:8]:
        line = next(line for line in printed if line.startswith(f'{row[0]} ('))
        assert len(line) <= 80 and f'({row[-1]})' in line
        for cell in row[1:3]:
            estimate = cell.strip('*')
            assert estimate + (' *' if cell != estimate else '') in line


def test_draws_the_best_six(tuned):
    _, _, page = tuned
    assert 'The best 6 of 7 rows at equal cycles are drawn.' in page.text
    assert len(page.all('li')) == 6 and len(page.all('img')) == 3 + 6
    shown = [image['alt'] for image in page.all('img')]
    assert 'training loss of each block: row 4.0' in shown
    assert 'training loss of each block: row 9.0' not in shown


def test_a_variant_that_diverged_is_not_chosen(tmp_path):
    make = Maker(tmp_path)
    wild, tame = (make.row('row', (4., 1.), None, variant=rate).variants
                  for rate in ('rate=9', 'rate=1'))
    make.fail(wild['rate=9'][1], 'diverged', 'nan')
    value = make.sweep([Row('row', {**wild, **tame})])
    line, = tables.results(value.tables[0], tables.read_runs(value, tmp_path)).lines
    assert line.variant == 'rate=1' and line.tried['rate=9'] == (np.inf, 1, 2)


@pytest.mark.thorough
def test_the_same_files_make_the_same_bytes(shown):
    folder, _, _ = shown
    files = [folder / 'report.html', folder / 'tables.csv']
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    # Another process, whose sets are in another order.
    code = ('import pathlib, sys\n'
            'from experiments.harness.report import sweep_report\n'
            'from experiments.harness.sweep import spec\n'
            'folder = pathlib.Path(sys.argv[1])\n'
            'sweep_report.write(spec.load(folder), folder)')
    seed = '2' if os.environ.get('PYTHONHASHSEED') == '1' else '1'
    subprocess.run([sys.executable, '-c', code, folder], check=True,
                   env={**os.environ, 'PYTHONHASHSEED': seed})
    assert [path.read_bytes() for path in files] == before
    assert not list(folder.glob('.*'))


def test_a_sweep_that_has_just_begun(tmp_path):
    make = Maker(tmp_path)
    row = make.row('joint', None, None, None)
    running, left, _ = row.variants['']
    status_log.began(make.path(left), 0)
    status_log.ended(make.path(left), 'preempted')
    status_log.began(make.path(running), 0)
    lease = RunLock(make.path(running))
    value = make.sweep([row], about='')
    page = Page(sweep_report.write(value, tmp_path))
    lease.release()
    assert ('3 trials: 0 done, 1 running, 1 preempted, 1 pending, 0 failed.'
            in page.text)
    assert page.row('joint') == ['–', '–', '0 of 3', '–', '–']
    assert 'No trial has finished yet.' in page.text and not page.all('img')
    assert 'No run has begun.' in page.text and 'Failures' not in page.text
    assert (tmp_path / 'tables.csv').read_text().splitlines()[1] == (
        'Table 0,joint,,neg_elbo,0,3' + 9 * ',')


def test_an_empty_sweep(tmp_path):
    page = Page(sweep_report.write(Maker(tmp_path).sweep(), tmp_path))
    assert '0 trials' in page.text and 'Two & <more>' in page.text


def test_pool_brings_seeds_to_one_axis():
    first = np.array([0., 1., 3.]), np.array([[6.], [4.], [0.]])
    second = np.array([0., 2.]), np.array([[1., 0.], [3., 0.]])
    x, values = pool([first, second])
    np.testing.assert_array_equal(x, [0, 1, 2])
    np.testing.assert_array_equal(values, [[6, 1, 0], [4, 2, 0], [2, 3, 0]])


def test_over_seeds_is_numpys():
    values = np.random.default_rng(0).normal(size=(5, 3))
    mean, error = over_seeds(values)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(error, values.std(0, ddof=1) / 5 ** 0.5)
    assert np.isnan(over_seeds([1.]).error) and np.isnan(over_seeds([1., NAN]).mean)
