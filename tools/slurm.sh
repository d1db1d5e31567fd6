#!/usr/bin/env bash
# A Slurm of one node on this machine, for `make blocks`: a real controller and a real node daemon, with graphics cards
# that are there by name alone. As root, with Debian's packages slurm-wlm and munge.
#
#   tools/slurm.sh start FOLDER    writes its settings there, which SLURM_CONF=FOLDER/slurm.conf names to sbatch
#   tools/slurm.sh stop FOLDER
#
# Nothing of it lies outside of FOLDER, and no Slurm that this machine has otherwise is touched.
set -euo pipefail

folder=$(realpath -m "$2")
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$folder/slurm.conf"
gpus=4

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

settings() {
  local host
  host=$(hostname -s)
  cat > "$folder/slurm.conf" <<END
ClusterName=blocks
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# A container has no cgroups to give.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
# How jobs ended is asked for when all have, seconds; by then the first may have ended long ago.
MinJobAge=86400
SchedulerParameters=sched_interval=2,batch_sched_delay=0
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) Gres=gpu:$gpus State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  # Slurm counts them by device files, and tells a job by CUDA_VISIBLE_DEVICES which are its own; nobody opens these.
  echo "Name=gpu File=/dev/tty[1-$gpus]" > "$folder/gres.conf"
}

start() {
  mkdir -p "$folder/state" "$folder/spool"
  settings
  head -c 128 /dev/urandom > "$folder/munge.key"
  chmod 400 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    sinfo --noheader --states=idle --format=%t 2>/dev/null | grep -q idle && return
    sleep 1
  done
  echo "Slurm's node did not come up; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  stop
  return 1
}

stop() {
  for name in slurmd slurmctld munged; do
    [ -f "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
  done
}

"$1"
