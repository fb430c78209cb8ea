#!/usr/bin/env bash
# Wheels of what a machine without a package index lacks, for benchmarks/campaign.sh:
#
#     benchmarks/wheels.sh python3.12
#
# The machine has JAX with CUDA, Flax, optax, orbax-checkpoint, PyTorch, torchvision, timm,
# transformers, pandas, pyarrow, SciPy, scikit-learn, OpenCV, Pillow and pytest. The Python named is
# of the machine's version and platform. They are put in .whl, which git ignores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${1:?the Python of the machine that the wheels are for, as python3.12}
version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
names=(
  array-record beartype defusedxml dm-tree docstring-parser ftfy googleapis-common-protos grain
  immutabledict importlib-resources jaxtyping ml-collections nltk portpicker promise safetensors
  simple-parsing simplejpeg tensorboardx tensorflow-datasets tensorflow-metadata termcolor toml
  tokenizers tzdata wadler-lindig wcwidth
)
mkdir -p .whl
"$python" -m pip wheel --quiet --no-deps -c "constraints/py$version.txt" -w .whl "${names[@]}"
du -sh .whl
