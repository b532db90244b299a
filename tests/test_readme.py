"""The README does what it says: its Python runs, its commands exist."""

import importlib
import re
import shlex
from pathlib import Path

import jax
import pytest

from experiments.harness import cli
from experiments.harness.sweep import commands, spec

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
TEXTS = {ROOT / name: (ROOT / name).read_text(encoding='utf-8') for name in (
    'README.md', 'CONTRIBUTING.md', 'docs/sweeps.md', 'docs/rules.md', 'docs/sound.md',
    'docs/gan.md', 'results/README.md')}
COMMANDS = sorted({
    command.strip() for text in TEXTS.values() for command in re.findall(
        r'(?:\./launch\.sh|python -m experiments\.\w+)[^`\n#]*', text)})


def test_python_blocks():
    blocks = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)
    assert blocks
    names = {}
    with jax.enable_x64(False):
        for block in blocks:
            exec(compile(block, 'README.md', 'exec'), names)


@pytest.mark.parametrize('command', COMMANDS)
def test_command(command):
    program, *arguments = shlex.split(command)
    if program == 'python':
        _, module, *arguments = arguments
        module = module.removeprefix('experiments.')
    elif arguments and arguments[0] != 'test':
        module, *arguments = arguments
    else:  # the main job, and the tests, whose files are there
        assert all((ROOT / word).exists() for word in arguments if '/' in word)
        return
    if module in ('NAME', 'SWEEP', 'MODULE'):
        module = 'smoke'
    given = [word for word in arguments if word.startswith('-') and word != '--help']
    if (ROOT / 'experiments' / 'sweeps' / f'{module}.toml').exists():
        spec.read(spec.named(module), cli.parse(commands.define_flags, given).set)
        assert {word for word in arguments if not word.startswith('-')} <= set(
            commands.COMMANDS)
        return
    experiment = importlib.import_module({
        'bench': 'benchmarks', 'rerun': 'experiments.harness.rerun',
        'compare': 'experiments.harness.report.compare'}.get(
            module, f'experiments.{module}'))
    if hasattr(experiment, 'define_flags'):
        cli.parse(experiment.define_flags, given)


def test_commands_are_found():
    assert './launch.sh' in COMMANDS and './launch.sh test' in COMMANDS


def test_files_are_found():
    for path, text in TEXTS.items():
        links = re.findall(r'\]\((?!https?:)([^)#]+)', text)
        names = re.findall(r'`((?:tests|results|docs)/[\w/.-]+)`', text)
        for target in (*(path.parent / link for link in links),
                       *(ROOT / name for name in names)):
            assert target.exists(), target
