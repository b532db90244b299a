"""The guides do what they say: their Python runs, and the links of all pages hold.

A guide is a page whose blocks are one program; other pages show calls out of context.
"""

import re
from pathlib import Path

import jax
import pytest

GUIDES = ['gan.md', 'large-models.md', 'your-own-model.md']
DOCS = Path(__file__).parents[1] / 'docs'
PAGES = {path.name: path.read_text(encoding='utf-8')
         for path in sorted(DOCS.glob('*.md'))}


def python_blocks(page):
    """The page's blocks, each on the lines that it has in the page, for tracebacks."""
    for match in re.finditer(r'^```python\n(.*?)^```', page, re.DOTALL | re.MULTILINE):
        yield '\n' * (page[:match.start(1)].count('\n')) + match[1]


@pytest.mark.parametrize('name', GUIDES)
@pytest.mark.thorough
def test_python_runs(name):
    names = {'__name__': name}
    with jax.enable_x64(False):  # as a reader has it
        for block in python_blocks(PAGES[name]):
            exec(compile(block, str(DOCS / name), 'exec'), names)


def test_blocks_are_found():
    assert len(list(python_blocks(PAGES['your-own-model.md']))) >= 10


@pytest.mark.parametrize('name', PAGES)
def test_links_lead_somewhere(name):
    for target in re.findall(r'\]\((?!https?:)([^)#]+)', PAGES[name]):
        assert (DOCS / target).exists(), target
