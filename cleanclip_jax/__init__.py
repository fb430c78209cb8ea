"""CleanCLIP in JAX: poison, measure and clean CLIP models.

docs/python.md shows it in use. Importing it loads no JAX: what is used comes from face.py.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cleanclip_jax.face import (
        apply_trigger,
        embed_images,
        embed_texts,
        evaluate,
        fit,
        load,
        open_model,
        open_source,
        poison,
        preprocess,
        tokenizer,
        train,
        trigger,
    )

__version__ = "0.1.0"
__all__ = [
    "apply_trigger",
    "embed_images",
    "embed_texts",
    "evaluate",
    "fit",
    "load",
    "open_model",
    "open_source",
    "poison",
    "preprocess",
    "tokenizer",
    "train",
    "trigger",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"cleanclip_jax has no {name!r}")
    from cleanclip_jax import face

    return getattr(face, name)
