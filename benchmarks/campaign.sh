#!/usr/bin/env bash
# All that docs/performance.md still owes of a GPU, the most valuable first:
#
#     benchmarks/campaign.sh [--small] [FOLDER]
#
# Each part has a limit and ends in a line "== NAME well", or badly. What FOLDER/campaign.log (runs/campaign
# unless named) holds already is skipped, so a second call goes on; a part that fails or runs out of
# its limit is tried once more by the next call. No part begins that BUDGET seconds (540) do not
# hold. --small rehearses every part on any machine, with small models.
#
# Packages that the machine lacks are taken from .whl (benchmarks/wheels.sh), and the training's
# data from DATA, a file with the columns of configs/fashion.py (.data/fashion_products_96px.parquet).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
small=no
if [ "${1:-}" = --small ]; then small=yes; shift; fi
out=${1:-runs/campaign}
python=${PYTHON:-python3} budget=${BUDGET:-540} data=${DATA:-.data/fashion_products_96px.parquet}
log=$out/campaign.log
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1

if [ -d .whl ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
    --target /tmp/campaign-site .whl/*.whl || exit
  export PYTHONPATH=$PWD:/tmp/campaign-site
fi

ended() { grep -cx "== $1 $2" "$log" 2> /dev/null; } # NAME well|badly: how often it did

part() { # NAME SECONDS COMMAND...: runs it unless it is done, failed twice, or takes too long
  local name=$1 limit=$2 begun=$SECONDS code how
  shift 2
  if [ "$(ended "$name" well)" -gt 0 ] || [ "$(ended "$name" badly)" -gt 1 ]; then
    return
  fi
  if [ $((SECONDS + limit)) -gt "$budget" ]; then
    echo "left: $name (up to $limit s)"
    return
  fi
  echo "== $name: $*" | tee -a "$log"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$log"
  code=${PIPESTATUS[0]}
  echo "took $((SECONDS - begun)) s, exit code $code" | tee -a "$log"
  if [ "$code" = 0 ]; then how=well; else how=badly; fi
  echo "== $name $how" | tee -a "$log"
}

step() { # NAME SECONDS OPTIONS...: ours and PyTorch's in turns
  part "$1" "$2" "$python" benchmarks/train_step.py --rounds="$rounds" --seconds="$turn" "${@:3}"
}

train() { # poison, clean and measure on the products: CA and ASR
  local keys=(--config.data.train.path="$data" "${short[@]}")
  local cli=("$python" -m cleanclip_jax.cli)
  "${cli[@]}" train --config=configs/fashion.py --workdir="$1/poisoned" "${keys[@]}" &&
    "${cli[@]}" train --config=configs/fashion.py:cleanclip --workdir="$1/cleaned" \
      --config.start="$1/poisoned" --config.optimizer.learning_rate=2e-3 "${keys[@]}" &&
    "${cli[@]}" evaluate --workdir="$1/poisoned" && "${cli[@]}" evaluate --workdir="$1/cleaned"
}

inputs() { # VARIANT OPTIONS...: the real job from JPEGs
  part "input-$1" 150 "$python" benchmarks/train_step.py --variants="$1" --rounds=2 \
    --seconds="$turn" --input=host,device,resident "${@:2}"
}

"$python" -c 'import jax; print("jax", jax.__version__, jax.devices())' | tee -a "$log"
if [ "$small" = yes ]; then
  rounds=1 turn=0.2 short=(--config.train.steps=3)
  mini=(--vocabulary=320 --context=12 --precisions=float32)
  part device-tests 300 "$python" -m pytest -q tests/attacks/test_device_triggers.py -k badnet
  step mini-8 300 --variants=ViT-32px/8-mini --batches=8 --attention=xla "${mini[@]}" \
    --compile=none --trace="$out/profile"
  inputs ViT-32px/8-mini --batches=8 --precisions=float32 --workers=0
else
  rounds=3 turn=3 short=()
  bf16=(--precisions=bfloat16 --trace="$out/profile")
  part device-tests 150 env JAX_PLATFORMS=cuda "$python" -m pytest -q tests/attacks/test_device_triggers.py tests/views/test_device_autoaugment.py
  step vit-b-32-256 150 --variants=ViT-B/32 --batches=256 --attention=xla,cudnn "${bf16[@]}"
  step rn50-256 150 --variants=RN50 --batches=256 --timm "${bf16[@]}"
  step vit-b-16-256 150 --variants=ViT-B/16 --batches=256 --attention=xla,cudnn "${bf16[@]}"
  inputs RN50 --batches=256 --precisions=bfloat16 --workers=16
fi
if [ -f "$data" ]; then
  export -f train
  part train 240 bash -c "python=$python data=$data short=(${short[*]}); train $(mktemp -d)"
else
  echo "left: train (no $data: name the file by DATA)"
fi
if [ "$small" = no ]; then
  for batch in 64 1024; do
    step rn50-$batch 150 --variants=RN50 --batches=$batch "${bf16[@]}"
    step vit-b-32-$batch 150 --variants=ViT-B/32 --batches=$batch --attention=xla,cudnn "${bf16[@]}"
    step vit-b-16-$batch 150 --variants=ViT-B/16 --batches=$batch --attention=xla,cudnn "${bf16[@]}"
  done
  inputs ViT-B/32 --batches=256 --precisions=bfloat16 --workers=16
fi
echo "all of it: $log"
