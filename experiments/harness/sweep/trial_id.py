"""What makes a run the one that it is: its experiment, its flags, the code's numbers.

    id = first 16 hexadecimal digits of sha256 over [SCHEMA, experiment, {flag: value}]

Defaults count, spelled out or not. How a number is written, the order of the flags and
the flags that are `NON_IDENTITY_FLAGS` do not.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Any

from absl import flags

from experiments.harness.training_flags import NON_IDENTITY_FLAGS, canonical

# Raise it when equal flags come to give other numbers: another initialisation, another
# use of the keys, another evaluation, a bug fixed. Every run is then a new one, and
# results so far belong to no sweep. Leave it for what keeps the numbers, and for a new
# flag, which enters every identity itself unless its default is None.
SCHEMA = 1


def identity(experiment: str, values: flags.FlagValues) -> str:
    """Return the identity of a run, 16 hexadecimal digits."""
    text = json.dumps([SCHEMA, experiment, meaning(values)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def meaning(values: flags.FlagValues, without: Collection[str] = ()) -> dict[str, Any]:
    """Flag -> value, of the flags that can change a number, but for some."""
    return {name: canonical(values[name].value) for name in values
            if name not in (*NON_IDENTITY_FLAGS, 'help', *without)
            and values[name].value is not None}
