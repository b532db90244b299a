"""Run every benchmark, each in a process of its own: `python -m benchmarks`."""

import subprocess
import sys

NAMES = ('step_cost', 'sweep_cost', 'peers', 'gan_parts', 'seeds', 'trials', 'compile',
         'memory')

if __name__ == '__main__':
    statuses = [subprocess.run(
        [sys.executable, '-m', f'benchmarks.{name}', *sys.argv[1:]], check=False
    ).returncode for name in NAMES]
    sys.exit(max(statuses))
