#!/usr/bin/env bash
# A Slurm of one node on the loopback, for `pytest -m slurm`: Debian, root, no systemd.
#
#   tests/loopback_slurm.sh install   Debian's packages, with apt-get
#   tests/loopback_slurm.sh up        start it, wait for it, print the path slurm.conf
#   tests/loopback_slurm.sh status    print the node's line of sinfo
#   tests/loopback_slurm.sh down      cancel its jobs, stop it, remove what it made
#
#   export SLURM_CONF; SLURM_CONF=$(tests/loopback_slurm.sh up) && pytest -m slurm
#
# Configuration, munge key and socket, spool and logs lie in one folder of its own,
# $LOOPBACK_SLURM, and its ports are not Slurm's: a real cluster's Slurm on the same
# machine stays as it is.
set -euo pipefail

folder=${LOOPBACK_SLURM:-/run/loopback-slurm}
conf=$folder/slurm.conf
cluster=pytest-loopback
ports=(16817 16818)
packages=(slurm-wlm slurmctld slurmd slurm-client munge)

fail() { echo "error: $*" >&2; exit 2; }
say() { echo "$*" >&2; }
slurm() { SLURM_CONF=$conf timeout 10 "$@"; }

# gone PID NAME: whether this process is not the daemon; a zombie has no command line.
gone() { ! grep -zqsE "^(/.*/)?$2$" "/proc/$1/cmdline"; }

# alive NAME: whether the daemon that wrote its process id is there.
alive() {
  local pid
  pid=$(cat "$folder/$1.pid" 2>/dev/null) && ! gone "$pid" "$1"
}

# within SECONDS COMMAND...: wait until it succeeds.
within() {
  local tries=$(( $1 * 5 ))
  shift
  until "$@"; do
    (( tries-- > 0 )) || return 1
    sleep 0.2
  done
}

# states STATES: whether the node is in one of them.
states() { slurm sinfo --noheader --format=%T 2>/dev/null | grep -qE "^($1)\$"; }
answers() { slurm scontrol ping 2>/dev/null | grep -q 'is UP'; }
unmunges() { munge --socket="$folder/munge.socket" --no-input 2>/dev/null |
  unmunge --socket="$folder/munge.socket" >/dev/null 2>&1; }
no_jobs() { [ -z "$(slurm squeue --noheader 2>/dev/null)" ]; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

needs_root() { [ "$(id -u)" = 0 ] || fail "not root; run: sudo $0 $command"; }

needs_packages() {
  for program in munged munge slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null ||
      fail "$program is missing; run: \
apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
  done
}

write_conf() {
  local host
  host=$(hostname -s)
  cat >"$conf" <<END
ClusterName=$cluster
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credentials have expired: 120 s unless said otherwise.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
MpiDefault=none
# Neither cgroups nor systemd are needed.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# More CPUs than there may be, so that an array of eight runs at once.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
  echo 'CgroupAutomount=no' >"$folder/cgroup.conf"
}

start() {  # start NAME LOG COMMAND...
  local name=$1 log=$2
  shift 2
  alive "$name" && return
  PATH=$PATH:/usr/sbin SLURM_CONF=$conf "$@" >>"$folder/start.log" 2>&1 ||
    fail "$name did not start; see $folder/start.log and $log"
}

up() {
  needs_root
  needs_packages
  if ! alive slurmctld && ! alive slurmd; then
    for port in "${ports[@]}"; do
      taken "$port" && fail "port $port of 127.0.0.1 is taken; free it (ss -ltnp)"
    done
  fi
  [ ! -e "$folder" ] || [ -e "$conf" ] ||
    fail "$folder is there and not this script's; name another in LOOPBACK_SLURM"
  # Others pass through to the socket; nobody but root writes.
  install -d -m 755 "$folder" "$folder/state" "$folder/spool"
  alive slurmctld || write_conf
  [ -e "$folder/munge.key" ] ||
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  start munged "$folder/munged.log" munged --socket="$folder/munge.socket" \
    --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  within 10 unmunges || fail "munged does not answer; see $folder/munged.log"
  start slurmctld "$folder/slurmctld.log" slurmctld
  within 20 answers || fail "slurmctld does not answer; see $folder/slurmctld.log"
  start slurmd "$folder/slurmd.log" slurmd
  within 30 states 'idle|mixed|allocated' ||
    fail "the node is not idle; see $folder/slurmd.log"
  say "Slurm is up; its jobs and commands need: export SLURM_CONF=$conf"
  echo "$conf"
}

# end_those_with VARIABLE [NAME]: kill what has it in its environment, and this name.
end_those_with() {
  local file pid
  for file in /proc/[0-9]*/environ; do
    grep -zqsxF "$1" "$file" || continue
    pid=${file//[^0-9]/}
    [ -z "${2:-}" ] || [ "$(cat "/proc/$pid/comm")" = "$2" ] || continue
    kill -9 "$pid" 2>/dev/null || true
  done
}

stop() {  # stop NAME: ask it to end, then end it.
  alive "$1" || return 0
  local pid
  pid=$(cat "$folder/$1.pid")
  kill "$pid"
  within 10 gone "$pid" "$1" || kill -9 "$pid"
}

down() {
  needs_root
  if [ ! -e "$conf" ]; then
    [ ! -e "$folder" ] || fail "$folder has no slurm.conf: it is not this script's"
    say 'Slurm is down'
    return
  fi
  if alive slurmctld; then
    slurm scancel --user=root --quiet 2>/dev/null || true
    within 10 no_jobs || true
  fi
  # Without cgroups, a process whose parent was killed is no longer seen as its job's,
  # and the job waits for it.
  end_those_with "SLURM_CLUSTER_NAME=$cluster"
  within 5 no_jobs || true
  for name in slurmd slurmctld munged; do stop "$name"; done
  end_those_with "SLURM_CONF=$conf" slurmstepd
  rm -rf -- "$folder"
  say 'Slurm is down'
}

status() {
  [ -e "$conf" ] || fail "Slurm is down; run: $0 up"
  slurm sinfo --noheader || fail "slurmctld does not answer; see $folder/slurmctld.log"
}

install_packages() {
  needs_root
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    "${packages[@]}" >&2 || fail 'apt-get install failed; try after apt-get update'
}

command=${1:-}
case $command in
  install) install_packages ;;
  up | down | status) "$command" ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
