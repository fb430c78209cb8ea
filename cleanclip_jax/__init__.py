"""CleanCLIP in JAX: poison, measure and clean CLIP models."""

from os import PathLike
from typing import Any

__version__ = "0.1.0"


def load(path: str | PathLike[str], activation: str | None = None) -> tuple[Any, dict[str, Any]]:
    """Loads a CLIP from a workdir (its newest checkpoint) or a PyTorch checkpoint.

        model, variables = cleanclip_jax.load("ViT-B-32.pt")
        features = cleanclip_jax.models.clip.encode_image(model, variables, images)

    Args:
      path: a workdir; a file of OpenAI, open_clip or CleanCLIP (.pt and its like, .safetensors);
        a Hugging Face or open_clip folder.
      activation: quick_gelu | gelu, in place of what a PyTorch checkpoint says or leaves open.

    Returns:
      the model (`models.clip.CLIP`) and its variables, {'params', 'batch_stats'}, in float32.

    Raises:
      UserError: there is no such thing, it can't be read, or it is no CLIP that is known here.
    """
    from os import fspath

    from cleanclip_jax.run.build import load_weights
    from cleanclip_jax.workdir import workdir_path

    return load_weights(workdir_path(fspath(path)), activation)
