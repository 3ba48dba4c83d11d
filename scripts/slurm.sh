#!/usr/bin/env bash
# A real SLURM on this one machine, to try sweeps on: install | start | status | stop
#
#   scripts/slurm.sh install          slurm-wlm and munge, by apt (root)
#   scripts/slurm.sh start [folder]   munged, slurmctld and a slurmd for each of two pretend nodes
#   export SLURM_CONF=<folder>/slurm.conf    then sbatch, squeue and launcher=slurm know it
#   scripts/slurm.sh status|stop [folder]
#
# The partition `main` (default) gives way to `urgent`: its jobs are requeued. There is no
# accounting, on purpose. One node is called 127.0.0.1, since nodes meet at the first one's name.
# Each has two pretend GPUs, given out by number: --gres=gpu:1.
# SLURM_CPUS: pretend cores of a node. SLURM_BASE_PORT: first of the ports that are used.
set -euo pipefail

folder=$(realpath -m "${2:-/tmp/one-machine-slurm}")
port=${SLURM_BASE_PORT:-16817}
cpus=${SLURM_CPUS:-16}
daemons="munged slurmctld slurmd-127.0.0.1 slurmd-n2"

install() {
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
    slurm-wlm munge >/dev/null
}

configure() {
  mkdir -p "$folder"/{spool,state,munge}
  chmod 755 "$folder" "$folder/munge"
  [ -f "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
  cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
SrunPortRange=$((port + 10))-$((port + 60))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
EnforcePartLimits=ALL
DefMemPerCPU=100
MinJobAge=3600
KillWait=10
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=127.0.0.1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=$cpus RealMemory=100000 Gres=gpu:2
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=$cpus RealMemory=100000 Gres=gpu:2
PartitionName=main Nodes=127.0.0.1,n2 Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=127.0.0.1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
  # without a device slurmd reports no GPU and its node is invalid; any will do, none is opened
  printf 'Name=gpu File=%s\n' /dev/null /dev/zero >"$folder/gres.conf"
}

start() {
  [ "$(id -u)" = 0 ] || { echo "this needs root: slurmd starts jobs for others" >&2; exit 1; }
  configure
  export SLURM_CONF="$folder/slurm.conf"
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge/seed"
  slurmctld
  slurmd -N 127.0.0.1
  slurmd -N n2
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null | sort -u)" = 2 ] && break
    sleep 0.1
  done
  echo "export SLURM_CONF=$folder/slurm.conf"
}

status() {
  for daemon in $daemons; do
    file="$folder/$daemon.pid"
    if [ -f "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null; then echo "$daemon: running"; else echo "$daemon: stopped"; fi
  done
  SLURM_CONF="$folder/slurm.conf" sinfo
}

stop() {
  for daemon in slurmd-127.0.0.1 slurmd-n2 slurmctld munged; do
    file="$folder/$daemon.pid"
    [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
  done
}

case "${1:-}" in
  install | start | status | stop) "$1" ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
