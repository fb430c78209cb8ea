#!/bin/bash
# Runs launch/slurm.sbatch on a real Slurm: a throw-away cluster of one node, this machine, in a
# temporary folder (docs/launch.md). Some seven minutes on two cores; `make test-slurm` calls it.
#
#   CLEANCLIP=.venv/bin/cleanclip launch/test_slurm.sh
#
# STEPS is the length of the runs (120), KEEP=yes leaves the folder.
set -euo pipefail

for program in slurmctld slurmd sbatch munged; do
    command -v "$program" >/dev/null || {
        echo "test_slurm.sh: $program is missing: install Slurm and munge (Debian: apt install slurm-wlm munge)" >&2
        exit 2
    }
done
script=$(realpath "$(dirname "$0")/slurm.sbatch") steps=${STEPS:-120} here=$(mktemp -d /tmp/slurm-test.XXXXXX)
CLEANCLIP=$(realpath "$(command -v "${CLEANCLIP:-cleanclip}")")
mkdir "$here"/{state,spool}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }

# Two make-believe GPUs: any device file will do, nothing opens them.
printf 'Name=gpu File=/dev/zero\nName=gpu File=/dev/full\n' >"$here/gres.conf"
cat >"$here/slurm.conf" <<END
ClusterName=throwaway
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# Also the seconds that a job waits before it starts again; else 120.
AuthInfo=socket=$here/munge.socket,cred_expire=5
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
GresTypes=gpu
NodeName=localhost NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES PriorityTier=1 GraceTime=60
PartitionName=first Nodes=ALL PriorityTier=2
END

stop_all() {
    local code=$? daemon
    ((code == 0)) || tail -n 40 "$here"/*.log >&2 || true
    scancel --user="$(id -un)" 2>/dev/null || true
    for ((i = 0; i < 40; i++)); do
        [[ $(squeue -h 2>/dev/null) ]] || break
        sleep 1
    done
    for daemon in slurmd slurmctld munged; do
        [[ ! -s $here/$daemon.pid ]] || kill "$(<"$here/$daemon.pid")" 2>/dev/null || true
    done
    sleep 2
    if [[ ${KEEP:-} ]]; then echo "kept: $here"; else rm -rf "$here"; fi
    exit "$code"
}
trap stop_all EXIT
trap 'exit 130' INT TERM

chmod 700 "$here"
head -c 1024 /dev/urandom >"$here/munge.key"
chmod 600 "$here/munge.key"
munged --force --socket="$here/munge.socket" --key-file="$here/munge.key" --pid-file="$here/munged.pid" \
    --log-file="$here/munged.log" --seed-file="$here/munged.seed" --num-threads=1
export SLURM_CONF=$here/slurm.conf CLEANCLIP JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR=$here/jit
export CLEANCLIP_CACHE=$here/cache
slurmctld
slurmd -N localhost

fail() { echo "test_slurm.sh: FAILED: $1" >&2 && exit 1; }
passed() { echo "passed: $1"; }
until_true() { # seconds, what, command: waits for the command to succeed
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what"
        sleep 1
    done
}
submit() { sbatch --parsable --chdir="$here" --output="%x-%j.log" "$@"; }
field() { scontrol show job "$1" | grep -o "\b$2=[^ ]*" | head -n 1 | cut -d = -f 2; }
is() { [[ $(field "$1" JobState) == "$2" ]]; }
started_again() { [[ $(field "$1" Restarts) == "$2" ]] && is "$1" RUNNING; }
up() { [[ $(sinfo -h -o %t) == idle ]]; }
at_step() { grep -q "\"step\": $2," "$1/metrics.jsonl" 2>/dev/null; }
until_true 30 "the cluster did not come up" up

demo=(--config=configs/demo.py:poisoned --config.train.steps="$steps" --config.train.log_every=5 --config.train.checkpoint_every="$steps")

# 1. A run through, arguments after the script's name; then measured.
began=$SECONDS
job=$(submit --ntasks=2 "$script" train --workdir="$here/through" "${demo[@]}")
until_true 900 "job $job did not complete" is "$job" COMPLETED
[[ -d $here/through/checkpoints/$steps ]] || fail "no checkpoint $steps"
at_step "$here/through" "$steps" || fail "no metrics of step $steps"
passed "job $job COMPLETED: $steps steps by two tasks in $((SECONDS - began)) s"
"$CLEANCLIP" evaluate --workdir="$here/through"

# 2. The same, by CONFIG, WORKDIR and ARGS; told to leave on the way, then taken away by Slurm. Both
# signal every process of the job, the decoding ones too.
began=$SECONDS
export CONFIG=configs/demo.py:poisoned WORKDIR=$here/taken ARGS="${demo[*]:1} --config.data.workers=1"
job=$(submit --ntasks=2 "$script")
until_true 600 "job $job did not get to step 20" at_step "$WORKDIR" 20
scancel --signal=TERM "$job" # what --signal=TERM@120 does before the time limit
until_true 300 "job $job was not queued again" started_again "$job" 1
until_true 300 "job $job did not get to step 60" at_step "$WORKDIR" 60
scontrol requeue "$job" # what a node's drain or a preemption without grace does
until_true 600 "job $job did not complete" is "$job" COMPLETED
[[ $(field "$job" Restarts) == 2 ]] || fail "job $job was restarted $(field "$job" Restarts) times, not 2"
[[ -d $WORKDIR/checkpoints/$steps ]] || fail "no checkpoint $steps"
loss() { grep "\"step\": $steps," "$1/metrics.jsonl" | grep -o '"loss": [^,]*'; }
[[ $(loss "$WORKDIR") == "$(loss "$here/through")" ]] || fail "the last loss is $(loss "$WORKDIR"), not $(loss "$here/through")"
passed "job $job COMPLETED after 2 restarts in $((SECONDS - began)) s, same last $(loss "$WORKDIR")"
cat "$WORKDIR"/starts.jsonl
tr '\r' '\n' <"$here/cleanclip-$job.log" | grep -v '^ *[0-9]*%'

# 3. A mistake is not queued again.
job=$(submit --ntasks=2 "$script" train --workdir="$here/mistake" "${demo[@]}" --config.train.batch_size=7)
until_true 300 "job $job did not fail" is "$job" FAILED
[[ $(field "$job" ExitCode) == 2:0 && $(field "$job" Restarts) == 0 ]] || fail "ExitCode $(field "$job" ExitCode)"
passed "job $job FAILED with 2 and was not queued again: $(grep -m 1 '^cleanclip: ' "$here/cleanclip-$job.log")"

# 4. With a stand-in for cleanclip: each task sees both GPUs; a preemption with grace is queued
# again; a cancelled job stays cancelled, though its tasks end with 75.
cat >"$here/stand-in" <<'END'
#!/bin/bash
trap 'exit 75' TERM
echo "task $SLURM_PROCID sees GPUs $CUDA_VISIBLE_DEVICES"
for ((i = 0; i < 300; i++)); do sleep 0.1; done
END
chmod +x "$here/stand-in"
export CLEANCLIP=$here/stand-in
job=$(submit --ntasks-per-node=2 --gpus-per-node=2 "$script")
seen() { [[ $(grep -c "^task [01] sees GPUs 0,1$" "$here/cleanclip-$job.log" 2>/dev/null) == 2 ]]; }
until_true 30 "the tasks of job $job do not see both GPUs" seen
sbatch --quiet --partition=first --ntasks=2 --output=/dev/null --wrap "sleep 1"
until_true 60 "preempted job $job was not queued again" started_again "$job" 1
scancel "$job"
until_true 60 "job $job was not cancelled" is "$job" CANCELLED
sleep 3
is "$job" CANCELLED || fail "job $job came back after scancel"
passed "job $job: both tasks saw GPUs 0,1; preempted and queued again; cancelled and gone"
job=$(submit --nodes=1 --gpus-per-node=2 "$script")
until_true 30 "job $job was not refused" is "$job" FAILED
passed "job $job refused: $(<"$here/cleanclip-$job.log")"
echo "test_slurm.sh: all passed in $SECONDS s, $(sinfo --version)"
