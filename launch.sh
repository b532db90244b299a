#!/usr/bin/env bash
# cdgm's one launcher. It makes its own environment, once, in .venv.
#
#   ./launch.sh              the main job, ./launch.sh quickstart: VAE and GAN on digits
#   ./launch.sh SWEEP ...    run what is left of experiments/sweeps/SWEEP.toml, or of a
#                            file SWEEP.toml, and write its report; with status, retry,
#                            report, --dry_run or --help what they say
#   ./launch.sh MODULE ...   python -m experiments.MODULE ..., as in ./launch.sh vae
#   ./launch.sh test [...]   lint, types and tests; arguments go to pytest
#   ./launch.sh bench [...]  every benchmark, side by side with PyTorch and others
#
# PYTHON=... chooses the interpreter (3.11 or later).
set -euo pipefail
cd "$(dirname "$0")"

find_python() {
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then echo "$candidate"; return; fi
  done
  echo "error: no Python 3.11 or later among ${PYTHON:-python3 python3.13 python3.12 \
python3.11}; install one, or name it with PYTHON=..." >&2
  return 2
}

# set_up EXTRA: install the package with an extra, unless that is done already.
set_up() {
  local python minor constraints stamp
  # pip comes last: without it, making .venv was interrupted.
  if [ ! -x .venv/bin/pip ]; then
    python=$(find_python)
    "$python" -m venv .venv
  fi
  minor=$(.venv/bin/python -c 'import sys; print(sys.version_info.minor)')
  # jax 0.12 wants Python 3.12; each line of jax has its own set of versions.
  constraints=constraints-py$(( minor > 11 ? 312 : 311 )).txt
  stamp=.venv/installed-$1-$(cat setup.cfg pyproject.toml "$constraints" | cksum | tr ' ' -)
  [ -e "$stamp" ] && return
  echo "Installing cdgm[$1] into .venv, once (1 to 3 minutes) …" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" --editable ".[$1]" >&2
  touch "$stamp"
}

# set_up_for ARGUMENTS: the experiments, and the extras that the arguments need.
set_up_for() {
  local extras=experiments
  [[ " $* " == *" --cluster=slurm "* ]] && extras+=,slurm
  [[ " $* " == *" --tensorboard "* ]] && extras+=,tensorboard
  set_up "$extras"
}

[ $# -gt 0 ] || set -- quickstart
case "$1" in
  test)
    shift
    set_up test
    .venv/bin/python -m flake8
    .venv/bin/python -m mypy
    exec .venv/bin/python -m pytest "$@" ;;
  bench)
    shift
    set_up bench
    exec .venv/bin/python -m benchmarks "$@" ;;
  -h | --help | help)
    sed -n '2,13s/^# \{0,1\}//p' "$0" ;;
  *.toml)
    # Named from where the caller is.
    [[ -e $1 ]] || set -- "$OLDPWD/$1" "${@:2}"
    set_up_for "$@"
    exec .venv/bin/python -m experiments.runner "$@" ;;
  *)
    if [ -e "experiments/sweeps/$1.toml" ]; then
      set -- runner "$@"
    elif ! grep -qs "__name__ == '__main__'" "experiments/$1.py" "experiments/$1/__main__.py"
    then
      echo "error: there is no sweep and no experiment '$1'; see ./launch.sh --help" >&2
      exit 2
    fi
    set_up_for "$@"
    exec .venv/bin/python -m "experiments.$1" "${@:2}" ;;
esac
