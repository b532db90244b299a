"""`./launch.sh NAME [COMMAND] [--FLAG=VALUE …]`, see `commands`."""

import sys

from experiments.harness.sweep import commands

if __name__ == '__main__':
    commands.main(sys.argv[1:])
