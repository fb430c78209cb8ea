#!/bin/bash
# One run on a TPU slice of Google Cloud, begun again after a preemption (docs/launch.md):
#
#   launch/tpu_pod.sh NAME --zone=us-west4-a --type=v5litepod-16 --version=v2-alpha-tpuv5-lite \
#       [--spot] [--nfs=10.0.0.2:/share] [--ref=HEAD] [--restarts=20] [--delete] [--dry-run] \
#       -- train --config=configs/pretrain.py --workdir=gs://mine/runs/clean
#
# The slice NAME is used if it is there, else made. --workdir lies in a bucket, or on what --nfs
# mounts at /mnt/cleanclip on each worker: all workers share it, and it outlives the slice. Commit
# first: what the workers get is --ref of this checkout.
set -u

refuse() {
    echo "tpu_pod.sh: $1" >&2
    exit 2
}

name=${1:-} zone="" type="" version="" nfs="" ref=HEAD restarts=20 delete="" dry="" spot=()
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || refuse "the first argument is the slice's name, not '$name'"
while shift && (($#)) && [[ $1 != -- ]]; do
    case $1 in
    --zone=?* | --type=?* | --version=?* | --nfs=?* | --ref=?* | --restarts=[0-9]*)
        word=${1#--} && printf -v "${word%%=*}" %s "${word#*=}" ;;
    --spot) spot=(--spot) ;;
    --delete) delete=yes ;;
    --dry-run) dry=yes ;;
    *) refuse "what is $1" ;;
    esac
done
[[ -n $zone && -n $type && -n $version ]] || refuse "--zone, --type and --version are needed"
(($# > 1)) || refuse "no job after --"
shift
[[ " $* " == *" --workdir=gs://"* || " $* " == *" --workdir=/"* ]] ||
    refuse "give --workdir=gs://BUCKET/... , or a path that all workers share, as --workdir=/..."

exec 3>&2
call() { # says a command on the screen and runs it, or only says it
    printf '+%s\n' "$(printf ' %q' "$@")" >&3
    [[ -n $dry ]] || "$@"
}
tpus() { call gcloud compute tpus "$@" --zone="$zone"; }
everywhere() { tpus tpu-vm ssh "$name" --worker=all --command="$1"; }
states() { # of the slice and of the request for it, empty where there is none
    node=$(tpus tpu-vm describe "$name" --format='value(state)' 2>/dev/null)
    request=$(tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null)
}

slice() { # returns when there is a slice that is ready
    while :; do
        states
        case $node:$request in
        READY:*) return ;;
        PREEMPTED: | TERMINATED:) tpus tpu-vm delete "$name" --quiet ;;
        PREEMPTED:* | TERMINATED:* | *:SUSPENDED) tpus queued-resources delete "$name" --force --quiet ;;
        :)
            tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
                --runtime-version="$version" "${spot[@]}" || refuse "no slice was made" ;;
        *:FAILED) refuse "the request for a slice failed: gcloud compute tpus queued-resources describe $name --zone=$zone" ;;
        esac
        [[ -z $dry ]] || return
        sleep "${POLL:-30}"
    done
}

# What the workers do, in their home folders. A run whose connection is lost goes on: it is told to
# save and to leave before the next begins.
# shellcheck disable=SC2016  # expanded there
leave='kill -TERM "$(cat cleanclip.pid)" 2>/dev/null; flock --wait 600 cleanclip.lock true'
mount="mountpoint -q /mnt/cleanclip || { sudo apt-get -o DPkg::Lock::Timeout=600 install -qq -y nfs-common && sudo mkdir -p /mnt/cleanclip && sudo mount -t nfs $nfs /mnt/cleanclip && sudo chmod a+rwx /mnt/cleanclip; }"
install='rm -rf cleanclip && tar -xf cleanclip.tar && cd cleanclip && python3 -m pip install --quiet --user uv && ~/.local/bin/uv venv --quiet --python=3.12 && ~/.local/bin/uv pip install --quiet -c constraints/py312.txt -e ".[tpu,gcs]"'
run=": >cleanclip.log; (exec 9>cleanclip.lock; flock --wait 600 9 || exit 75; cd cleanclip && exec .venv/bin/cleanclip$(printf ' %q' "$@")) >>cleanclip.log 2>&1 </dev/null & echo \$! >cleanclip.pid; tail --pid=\$! -s 0.2 -n +1 -f cleanclip.log; wait \$!"

tar=$(mktemp -d)/cleanclip.tar
git -C "$(dirname "$0")/.." archive --prefix=cleanclip/ --output="$tar" "$ref" || exit 2
for ((turn = 0, code = 75; turn <= restarts; turn++)); do
    slice
    [[ -z $nfs ]] || everywhere "$mount" || continue
    { everywhere "$leave"; tpus tpu-vm scp "$tar" "$name:" --worker=all && everywhere "$install"; } || continue
    everywhere "$run"
    code=$?
    # 75: worth starting again; 255: no ssh, as on a slice that was preempted; above 128: killed.
    ((code == 75 || code > 128)) || break
    echo "tpu_pod.sh: ended with exit code $code; starting again" >&2
done
[[ -z $delete ]] || tpus queued-resources delete "$name" --force --quiet
exit "$code"
