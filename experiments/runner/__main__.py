"""`python -m experiments.runner NAME [COMMAND] [--FLAG=VALUE …]`, see `commands`."""

import sys

from experiments.runner import commands

if __name__ == '__main__':
    commands.main(sys.argv[1:])
