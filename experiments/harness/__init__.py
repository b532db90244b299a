"""The harness: from flags to runs, sweeps and reports, of any experiment there is."""

import importlib.util

_missing = [name for name in ('matplotlib', 'pooch', 'rich', 'sklearn')
            if importlib.util.find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f'the experiments need {", ".join(_missing)}, which the extra brings: '
        'pip install cdgm[experiments]')
