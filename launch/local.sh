#!/bin/bash
# One run of N processes on this machine (docs/launch.md):
#
#   launch/local.sh N [--restarts=K] [--logs=DIR] -- cleanclip train --config=... --workdir=...
#
# GPUs are dealt out evenly; CUDA_VISIBLE_DEVICES says which, JAX_PLATFORMS=cpu takes none. GRACE is
# how many seconds the others get when one process has ended badly (120): more than mesh.heartbeat.
set -u

refuse() {
    echo "local.sh: $1; usage: local.sh N [--restarts=K] [--logs=DIR] -- COMMAND ..." >&2
    exit 2
}

n=${1:-} restarts=3 logs=logs
[[ $n =~ ^[1-9][0-9]*$ ]] || refuse "N is '$n', not a number of processes"
while shift && (($#)) && [[ $1 != -- ]]; do
    case $1 in
    --restarts=[0-9]*) restarts=${1#*=} ;;
    --logs=?*) logs=${1#*=} ;;
    *) refuse "what is $1" ;;
    esac
done
(($# > 1)) || refuse "no command after --"
shift

gpus=""
[[ ${JAX_PLATFORMS:-} == cpu ]] || gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd,)}
IFS=, read -ra gpus <<<"$gpus"
((share = ${#gpus[@]} / n, ${#gpus[@]} % n == 0)) || refuse "${#gpus[@]} GPUs are not dealt out evenly to $n processes"
((share == 0)) || export CUDA_VISIBLE_DEVICES
mkdir -p "$logs" || exit 2

rank() { # of codes: done, killed, worth starting again, an error, a mistake
    case $1 in 0) echo 0 ;; 2) echo 4 ;; 75) echo 2 ;; *) echo $(($1 < 128 ? 3 : 1)) ;; esac
}

pids=() asked=""
trap 'asked=yes; kill -TERM "${pids[@]}" 2>/dev/null' TERM INT

for ((turn = 0; ; turn++)); do
    port=$((20000 + RANDOM % 12000)) code=0 deadline=""
    while (: <"/dev/tcp/localhost/$port") 2>/dev/null; do port=$((port + 1)); done
    for ((i = 0; i < n; i++)); do
        ((share == 0)) || CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:i*share:share}")
        "$@" --coordinator="localhost:$port" --processes="$n" --process="$i" >>"$logs/process-$i.log" 2>&1 &
        pids[i]=$!
    done
    [[ -z $asked ]] || kill -TERM "${pids[@]}" 2>/dev/null
    while ((${#pids[@]})); do
        sleep 0.2
        for i in "${!pids[@]}"; do
            kill -0 "${pids[i]}" 2>/dev/null && continue
            wait "${pids[i]}"
            ended=$?
            unset "pids[i]"
            (($(rank $ended) > $(rank $code))) && code=$ended
            ((ended == 0)) || echo "local.sh: process $i ended with exit code $ended: $logs/process-$i.log" >&2
        done
        # Of a lost process the others take notice by themselves, and of a mistake they are told.
        if ((code)) && [[ -z $deadline ]]; then
            deadline=$((SECONDS + ${GRACE:-120}))
            (($(rank $code) < 3)) || kill -TERM "${pids[@]}" 2>/dev/null
        fi
        ((SECONDS < ${deadline:-SECONDS + 1})) || kill -KILL "${pids[@]}" 2>/dev/null
    done
    if ((code == 0 || $(rank $code) > 2 || turn == restarts)) || [[ -n $asked ]]; then exit "$code"; fi
    echo "local.sh: starting again ($((turn + 1)) of $restarts)" >&2
done
