#!/usr/bin/env bash
# cdgm's one launcher. It makes its own environment, once, in .venv.
#
#   ./launch.sh              the main job, ./launch.sh quickstart: VAE and GAN on digits
#   ./launch.sh SWEEP ...    run what is left of experiments/sweeps/SWEEP.toml, or of a
#                            file SWEEP.toml, and write its report; with status, retry,
#                            report, --dry_run or --help what they say
#   ./launch.sh NAME ...     an experiment of experiments/README.md, as in
#                            ./launch.sh vae; or FILE.py, one of your own
#   ./launch.sh rerun RUN    repeat a run and say whether every bit is the same
#   ./launch.sh compare RUN ...   runs at equal cycles and at equal FLOPs
#   ./launch.sh test [...]   lint, types and tests; arguments go to pytest
#   ./launch.sh bench [...]  every benchmark, side by side with PyTorch and others
#
# Folders are taken from where the caller is. PYTHON=... chooses the interpreter (3.11 or
# later).
set -euo pipefail
root=$(cd "$(dirname "$0")" && pwd)

find_python() {
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then echo "$candidate"; return; fi
  done
  echo "error: no Python 3.11 or later among ${PYTHON:-python3 python3.13 python3.12 \
python3.11}; install one, or name it with PYTHON=..." >&2
  return 2
}

python=$root/.venv/bin/python

# experiment MODULE ...: run a module of the experiments from where the caller is.
experiment() {
  PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m "experiments.$1" "${@:2}"
}

# set_up EXTRA: install the package with an extra, unless that is done already.
set_up() {
  local found minor constraints stamp
  # pip comes last: without it, making .venv was interrupted.
  if [ ! -x "$root/.venv/bin/pip" ]; then
    found=$(find_python)
    "$found" -m venv "$root/.venv"
  fi
  minor=$("$python" -c 'import sys; print(sys.version_info.minor)')
  # jax 0.12 wants Python 3.12; each line of jax has its own set of versions.
  constraints=$root/constraints-py$(( minor > 11 ? 312 : 311 )).txt
  stamp=$root/.venv/installed-$1-$(
    cat "$root/setup.cfg" "$root/pyproject.toml" "$constraints" | cksum | tr ' ' -)
  [ -e "$stamp" ] && return
  echo "Installing cdgm[$1] into .venv, once (1 to 3 minutes) …" >&2
  "$python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$constraints" --editable "$root[$1]" >&2
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
    cd "$root"
    "$python" -m flake8
    "$python" -m mypy
    exec "$python" -m pytest "$@" ;;
  bench)
    shift
    set_up bench
    cd "$root"
    exec "$python" -m benchmarks "$@" ;;
  -h | --help | help)
    sed -n '2,18s/^# \{0,1\}//p' "$0" ;;
  *.toml)
    set_up_for "$@"
    experiment harness.sweep "$@" ;;
  *.py)
    set_up_for "$@"
    PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P "$@" ;;
  rerun)
    set_up_for "$@"
    experiment harness.rerun "${@:2}" ;;
  compare)
    set_up_for "$@"
    experiment harness.report.compare "${@:2}" ;;
  *)
    if [ -e "$root/experiments/sweeps/$1.toml" ]; then
      set_up_for "$@"
      experiment harness.sweep "$@"
    elif ! grep -qs "__name__ == '__main__'" \
      "$root/experiments/$1.py" "$root/experiments/$1/__main__.py"
    then
      echo "error: there is no sweep and no experiment '$1'; see ./launch.sh --help" >&2
      exit 2
    fi
    set_up_for "$@"
    experiment "$@" ;;
esac
