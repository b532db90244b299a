"""Experiments: what the library is for, one file each, run with `python -m`."""

import importlib.util
import sys

_missing = [name for name in ('matplotlib', 'pooch', 'rich', 'sklearn')
            if importlib.util.find_spec(name) is None]
if _missing:
    print(f'error: the experiments need {", ".join(_missing)}, which the extra brings: '
          'pip install cdgm[experiments]', file=sys.stderr)
    sys.exit(2)
