"""PyTorch's checkpoints: which paths are one. What reads and writes them is loaded when needed."""

from pathlib import Path

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
# A folder's weights, by who writes them so; the first that is there is read.
HUGGINGFACE = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def is_torch_checkpoint(path: Path) -> bool:
    """Whether a path is, or is named like, a PyTorch checkpoint and no workdir of ours."""
    if path.is_dir():
        return any((path / name).is_file() for name in (*HUGGINGFACE, *OPEN_CLIP))
    return path.is_file() or path.suffix in SUFFIXES
