"""The report: one file that needs nothing else, and says what the runs say."""

import base64
import html.parser

import pytest

from experiments.report import Section, write_report

SECTION = Section('Two <orders>', 'neg_elbo', 'nats & bits', 'What is compared.',
                  {'joint': ('vae', '--order=joint'),
                   'a <b>': ('vae', '--order=decoder,encoder')})


class Page(html.parser.HTMLParser):
    """Collects the tags and the text of a page, and checks that tags are closed."""

    void = 'meta', 'img'

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.cells, self.text = [], [], [], ''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == 'td':
            self.cells.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def folders(tmp_path, write_run):
    return [{'joint': write_run(tmp_path / 'joint', 4., [5., 7.], 'c0ffee'),
             'a <b>': write_run(tmp_path / 'ab', 8., [3., 5.], None)}]


def test_needs_nothing_else(folders, tmp_path):
    text = write_report(tmp_path / 'report.html', [SECTION], folders).read_text()
    assert 'http' not in text and '<script' not in text
    assert 'url(' not in text and '@import' not in text
    page = Page(text)
    assert not page.all('link') and not page.all('iframe')
    # Curves, losses, and the samples of each of two runs.
    assert len(page.all('img')) == 4
    for image in page.all('img'):
        head, data = image['src'].split(',')
        assert head == 'data:image/png;base64' and image['alt']
        assert base64.b64decode(data, validate=True).startswith(b'\x89PNG\r\n')


def test_says_what_the_runs_say(folders, tmp_path):
    page = Page(write_report(tmp_path / 'report.html', [SECTION], folders).read_text())
    # At two sweeps each, and at 4 GFLOP, half of the second run.
    assert page.cells == ['joint', '6.00 ± 1.00', '6.00 ± 1.00', '4.0', '2.0',
                          'a <b>', '4.00 ± 1.00', '6.50 ± 0.50', '8.0', '2.0']
    assert 'at 2 sweeps' in page.text and 'at 4.0 GFLOP' in page.text
    assert 'Two <orders>' in page.text and 'nats & bits' in page.text
    assert 'cpu <8>, 2 cores; commit c0ffee' in page.text
    assert page.text.count('python -m experiments.vae --order=a,b --seeds=2') == 2
    assert str(tmp_path) not in page.text


def best_cells(folders, tmp_path):
    page = Page(write_report(tmp_path / 'report.html', [SECTION], folders).read_text())
    return [cell for cell, marks in zip(page.cells, page.all('td'), strict=True)
            if marks.get('class') == 'best']


def test_marks_the_best_and_what_is_within_its_error(folders, tmp_path):
    assert best_cells(folders, tmp_path) == ['6.00 ± 1.00', '4.00 ± 1.00',
                                             '6.50 ± 0.50']


def test_one_seed_has_no_error(tmp_path, write_run):
    folders = [{'joint': write_run(tmp_path / 'joint', 4., [5.], None),
                'a <b>': write_run(tmp_path / 'ab', 4., [3.], None)}]
    assert best_cells(folders, tmp_path) == ['3.00', '3.00']
    assert 'commit unknown' in (tmp_path / 'report.html').read_text()


def test_equal_runs_make_an_equal_page(folders, tmp_path):
    first, second = (write_report(tmp_path / name, [SECTION], folders).read_bytes()
                     for name in ('first.html', 'second.html'))
    assert first == second
