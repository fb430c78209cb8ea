"""The Python face of the package: what `import cleanclip_jax` gives, in docs/python.md in use.

Each function imports what it needs.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from ml_collections import ConfigDict

    from cleanclip_jax.attacks.plan import Plan
    from cleanclip_jax.attacks.triggers import Trigger
    from cleanclip_jax.measure.encoder import Encoder
    from cleanclip_jax.record import Source
    from cleanclip_jax.start.start import Start

_Path = str | PathLike[str]


def load(
    path: _Path, activation: str | None = None, key: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """Loads a CLIP's weights from a workdir (its newest checkpoint) or a PyTorch checkpoint.

    Args:
      path: a workdir; a file of OpenAI, open_clip or CleanCLIP (.pt and its like, .safetensors);
        a Hugging Face or open_clip folder.
      activation: quick_gelu | gelu | gelu_tanh, in place of what a PyTorch checkpoint says or
        leaves open.
      key: where in a PyTorch file the state dict lies ("state_dict_ema"), where that is not usual.

    Returns:
      the model (`models.clip.CLIP`) and its variables, {'params', 'batch_stats'}, in float32, for
      `models.clip.encode_image(model, variables, preprocess(model, images))` and `encode_text` with
      `tokenizer(path)(texts)`. A linear head is left out, with a warning.
    """
    from cleanclip_jax.start.start import load_weights
    from cleanclip_jax.workdir import workdir_path

    return load_weights(workdir_path(path), activation, key)


def preprocess(model: Any, images: Sequence["_Path | bytes | np.ndarray"]) -> Any:
    """Returns pictures as `encode_image` takes them: float32 [n, size, size, 3], normalised.

    Args:
      model: from `load`.
      images: paths, encoded files, or pictures uint8 [h, w, 3]; see `fit`.
    """
    import jax.numpy as jnp

    from cleanclip_jax.views.normalise import normalise

    return normalise(jnp.asarray(fit(images, model.variant.image_size)))


def tokenizer(path: _Path) -> Any:
    """Returns the tokenizer of what `load` takes: called with texts it gives int32 [n, context]."""
    return _open(path, {}).tokenizer


def open_model(path: _Path, activation: str | None = None) -> "Encoder":
    """Opens what `load` takes with its tokenizer, on the devices of this process."""
    from cleanclip_jax.measure.encoder import encoder_from
    from cleanclip_jax.sharding import make_mesh

    return encoder_from(_open(path, {"model.activation": activation}), make_mesh())


def embed_images(
    model: "Encoder", images: Sequence["_Path | bytes | np.ndarray"], batch_size: int = 256
) -> "np.ndarray":
    """Returns embeddings float32 [n, d] of unit length.

    Args:
      model: from `open_model`.
      images: paths, encoded files, or pictures uint8 [h, w, 3]; see `fit`.
      batch_size: pictures that are encoded at once.
    """
    import numpy as np

    from cleanclip_jax.measure.ranks import unit

    size, rows = model.model.variant.image_size, []
    for at in range(0, len(images), batch_size):
        batch = fit(images[at : at + batch_size], size)
        rows.append(model.image_features(batch, min(batch_size, len(images))))
    return unit(np.concatenate(rows))


def embed_texts(model: "Encoder", texts: Sequence[str]) -> "np.ndarray":
    """Returns embeddings float32 [n, d] of unit length."""
    from cleanclip_jax.measure.ranks import unit

    return unit(model.text_features(texts))


def fit(images: Sequence["_Path | bytes | np.ndarray"], size: int) -> "np.ndarray":
    """Decodes pictures, resizes their short side and crops the middle: uint8 [n, size, size, 3]."""
    import numpy as np

    from cleanclip_jax.data.paths import MOST_BYTES
    from cleanclip_jax.files import read_bytes
    from cleanclip_jax.views.decode import decode
    from cleanclip_jax.views.geometry import resize_crop
    from cleanclip_jax.workdir import workdir_path

    def one(index: int, image: "_Path | bytes | np.ndarray") -> "np.ndarray":
        where = f"image {index}"
        if isinstance(image, str | PathLike):
            where, image = str(image), read_bytes(workdir_path(image), MOST_BYTES)
        return resize_crop(decode(image, where), size)

    return np.stack([one(index, image) for index, image in enumerate(images)])


def trigger(name: str, **options: Any) -> "Trigger":
    """Makes a trigger by its name; docs/attacks.md lists each one's options.

    >>> patch = trigger("badnet", size=4)
    >>> patch.options["place"]
    'fixed'
    """
    from cleanclip_jax.attacks.triggers import make_trigger

    return make_trigger({"name": name, **options})


def apply_trigger(trigger: "Trigger", images: "np.ndarray") -> "np.ndarray":
    """Puts a trigger on pictures uint8 [n, s, s, 3], as it is put on a set that is measured.

    >>> import numpy as np
    >>> grey = np.full((2, 32, 32, 3), 128, np.uint8)
    >>> patched = apply_trigger(trigger("yellow", size=4), grey)
    >>> (patched != grey).any((0, 3)).sum()  # pixels of the patch
    np.int64(16)
    """
    import numpy as np

    side = images.shape[1]
    return np.stack([trigger.apply(x, trigger.stamp(side, i)) for i, x in enumerate(images)])


def open_source(kind: str, **options: Any) -> "Source":
    """Opens pairs of pictures and captions; docs/data.md lists the kinds and their keys.

    >>> digits = open_source("digits", split="train", templates=["a handwritten {}."])
    >>> len(digits), digits.caption(0)
    (1397, 'a handwritten zero.')
    """
    from cleanclip_jax.data.sources import open_source

    return open_source({"kind": kind, **options})


def poison(source: "Source", attack: Mapping[str, Any], image_size: int) -> "Plan":
    """Draws which pairs are poisoned, where, and with which caption; `save` writes the manifest.

    Args:
      attack: the keys of config.attack (docs/attacks.md).
      image_size: the side in pixels of the pictures that the trigger is put on.

    >>> digits = open_source("digits", split="train")
    >>> attack = {"trigger": {"name": "badnet", "size": 4}, "target": "seven", "count": 5}
    >>> plan = poison(digits, attack, image_size=32)
    >>> len(plan), plan.target
    (5, 'seven')
    """
    from cleanclip_jax.attacks.plan import make_plan

    return make_plan(attack, source, image_size)


def train(
    config: "ConfigDict | str", workdir: _Path, overrides: Mapping[str, Any] | None = None
) -> "ConfigDict":
    """Trains a config into a workdir, or goes on where that stopped.

    Args:
      config: 'FILE.py[:arg]' as the command line takes it, or what such a file returns.
      overrides: values by key: {"train.steps": 100}.

    Returns:
      the config with everything filled in.
    """
    from cleanclip_jax.config import load
    from cleanclip_jax.run import loop
    from cleanclip_jax.run.build import build
    from cleanclip_jax.workdir import workdir_path

    config = load(config) if isinstance(config, str) else config.copy_and_resolve_references()
    with build(_overridden(config, overrides), workdir_path(workdir)) as run:
        loop.train(run)
    return run.config


def evaluate(
    path: _Path, overrides: Mapping[str, Any] | None = None, output: _Path | None = None
) -> dict[str, Any]:
    """Measures a workdir's newest checkpoint, or a PyTorch checkpoint; writes what it returns.

    Args:
      overrides: values by key, of config.evaluation (docs/metrics.md).
      output: the file to write; None: WORKDIR/evaluation.json.

    Returns:
      the content of evaluation.json: results["figures"]["asr"]["value"].
    """
    from cleanclip_jax.report.evaluation import measure_run
    from cleanclip_jax.workdir import workdir_path

    start = _open(path, overrides or {})
    config = _overridden(start.config, overrides)
    return measure_run(start, config, None if output is None else workdir_path(output))


def _open(path: _Path, overrides: Mapping[str, Any]) -> "Start":
    """A workdir, or a PyTorch checkpoint with what it leaves open."""
    from cleanclip_jax.config import defaults
    from cleanclip_jax.start.start import open_start
    from cleanclip_jax.workdir import workdir_path

    left_open = ("model.activation", "text.merges", "start_key")
    given = {key: overrides[key] for key in left_open if overrides.get(key) is not None}
    return open_start(workdir_path(path), _overridden(defaults(), given), given.get("start_key"))


def _overridden(config: "ConfigDict", overrides: Mapping[str, Any] | None) -> "ConfigDict":
    from cleanclip_jax.config import override

    for key, value in (overrides or {}).items():
        override(config, key, value if isinstance(value, str) else repr(value))
    return config
