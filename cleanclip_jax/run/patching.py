"""A patch optimised on a frozen surrogate (BadCLIP, arXiv 2311.12075), from a config to its files.

Beside OUTPUT.png, RGB, lie OUTPUT.npy, the same in floating point and not clipped, and OUTPUT.json:
digest, settings, curve, and the patch's success on the surrogate, which nobody has poisoned yet.
Until all of them are there OUTPUT.part.npz has what was reached, and the same command goes on.
"""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float32, Int64, UInt8
from ml_collections import ConfigDict
from PIL import Image

from cleanclip_jax.attacks.device_patch import PatchBatch, PatchState, make_patch_step
from cleanclip_jax.attacks.pairs import digest
from cleanclip_jax.attacks.triggers import to_uint8
from cleanclip_jax.errors import UserError, refusing
from cleanclip_jax.files import read_bytes, read_json, write_whole, writing, written_whole
from cleanclip_jax.measure.encoder import Encoder, encoder_from
from cleanclip_jax.measure.features import Shown, batches_of, embed, reading_of, texts_of
from cleanclip_jax.measure.measure import evaluate
from cleanclip_jax.measure.ranks import text_classifier, unit
from cleanclip_jax.process import Preemption
from cleanclip_jax.run.checked_patch import CheckedPatch
from cleanclip_jax.shapes import parse_json
from cleanclip_jax.sharding import copied_over, make_mesh, place_batch

log = logging.getLogger(__name__)

# What each stream of draws begins with, beside the seed.
_START, _PICTURES, _CAPTIONS, _ORDER, _STEP = range(5)
Curve: TypeAlias = list[dict[str, Any]]  # a row every so many steps, losses before the update
_SHAPE = {"settings": dict, "digest": str, "floor": dict, "curve": [dict]}


def optimise(checked: CheckedPatch) -> dict[str, Any]:
    """Optimises the patch and writes its files; returns what OUTPUT.json holds.

    One that is there already, of the same settings, is returned as it is.

    Raises:
      StartAgain: SIGTERM or Ctrl-C has come: the same command goes on.
    """
    output, config = checked.output, checked.config
    raw, summary, part = (output.with_suffix(end) for end in (".npy", ".json", ".part.npz"))
    if summary.exists():
        known = read_json(summary, _SHAPE, "name another --output")
        if known["settings"] != checked.identity:
            raise UserError(f"{summary} is of another patch: name another --output")
        return known
    reached = _read_part(part, checked.identity)
    if reached is None and (strangers := [path for path in (output, raw) if path.exists()]):
        raise UserError(f"{strangers[0]} is there, and not of this command: name another --output")
    with writing(output.parent):
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        encoder = encoder_from(checked.start, mesh, config)
        data = _read_data(checked, encoder)
        patch, curve = _search(checked, encoder, data, reached, part)
        picture, floats = io.BytesIO(), io.BytesIO()
        Image.fromarray(to_uint8(patch)).save(picture, "png")
        np.save(floats, patch)
        write_whole(output, picture.getvalue())
        write_whole(raw, floats.getvalue())
        result = {
            "digest": digest(picture.getvalue()),
            "settings": checked.identity,
            "surrogate": dict(checked.start.identity),
            "pictures": len(data.images),
            "positives": len(data.positives),
            "captions": len(checked.captions),
            "floor": _floor(checked, encoder),
            "curve": curve,
        }
        write_whole(summary, json.dumps(result, indent=2) + "\n")
        part.unlink(missing_ok=True)
    return result


class PatchData(NamedTuple):
    """What the patch is optimised on; embeddings are of unit length.

    Attributes:
      captions: of each picture, the row of its caption in `texts`.
      texts: of the captions that name the target; or of the prompts of all classes.
      target: the class's row there.
    """

    images: UInt8[np.ndarray, "n s s 3"]
    captions: Int64[np.ndarray, " n"]
    texts: Float32[np.ndarray, "c d"]
    target: int
    positives: Float32[np.ndarray, "p d"]


def _read_data(checked: CheckedPatch, encoder: Encoder) -> PatchData:
    """Reads and embeds what the patch is optimised on."""
    settings, source, known = checked.settings, checked.source, checked.measured
    reading = reading_of(checked.config)
    positives = unit(embed(encoder, Shown(source, checked.positives), reading).rows)
    order, closeness = checked.others, None
    if settings["select"] != "any":
        others = embed(encoder, Shown(source, order), reading)
        order, closeness = others.index, unit(others.rows) @ unit(positives.mean(0))
    order = _ordered(order, settings, closeness)[: settings["pictures"]]
    images = []
    with batches_of(Shown(source, order), checked.config.model.image_size, reading) as batches:
        images = [batch["images"] for batch in batches]
        bad = len(batches.unreadable)
    images = np.concatenate(images)
    if bad > reading.max_bad_share * len(order) or len(images) < settings["batch_size"]:
        raise UserError(
            f"{bad} of {len(order)} pictures can't be read, more than config.data.max_bad_share "
            "allows, or too many for a batch"
        )
    drawn = np.random.default_rng([_CAPTIONS, settings["seed"]]).integers(
        len(checked.captions), size=len(images)
    )
    if checked.loss.text_loss == "classes" and known is not None and known.target is not None:
        texts = text_classifier(encoder, known.classes, known.templates).weights
        return PatchData(images, drawn, texts, known.target, positives)
    return PatchData(images, drawn, unit(texts_of(encoder, checked.captions)), 0, positives)


def _ordered(
    indices: Int64[np.ndarray, " n"],
    settings: Mapping[str, Any],
    closeness: Float[np.ndarray, " n"] | None,
) -> Int64[np.ndarray, " n"]:
    """Pictures, the first to be taken first."""
    if closeness is None:
        return np.random.default_rng([_PICTURES, settings["seed"]]).permutation(indices)
    order = indices[np.argsort(-closeness, kind="stable")]
    return order if settings["select"] == "closest" else order[::-1]


def _search(
    checked: CheckedPatch, encoder: Encoder, data: PatchData, reached: Any, part: Path
) -> tuple[Float32[np.ndarray, "l l 3"], Curve]:
    """The optimised patch and its curve."""
    settings, mesh, train = checked.settings, encoder.mesh, checked.config.train
    seed, steps = settings["seed"], settings["steps"]
    optimizer = optax.adam(settings["step_size"])
    step = make_patch_step(encoder.model, checked.loss, optimizer, seed, mesh)
    drawn = np.random.default_rng([_START, seed]).standard_normal((checked.side, checked.side, 3))
    patch = jnp.asarray((0.5 + 0.25 * drawn).clip(0, 1), jnp.float32)
    state, curve = PatchState(jnp.int32(0), patch, optimizer.init(patch)), []
    if reached is not None:
        leaves, curve = reached
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    state = jax.device_put(state, copied_over(mesh))
    classes = jax.device_put(data.texts, copied_over(mesh))
    with Preemption() as preemption:
        for number in range(int(state.step), steps):
            batch = place_batch(mesh, _batch(data, settings, number))
            if checked.loss.text_loss == "classes":
                batch["texts"] = classes
            state, terms = step(state, encoder.variables, PatchBatch(**batch, target=data.target))
            done = number + 1
            leaving = preemption.reached(done) and done < steps
            saving = leaving or done == steps or done % train.checkpoint_every == 0
            if saving or number % train.log_every == 0:
                row = {name: float(value) for name, value in terms.items()}
                curve.append({"step": number, "loss": sum(row.values()), **row})
                if not np.isfinite(curve[-1]["loss"]):
                    raise UserError(
                        f"the loss of step {number} is not finite: lower config.patch.step_size"
                    )
                log.info("step %d of %d: loss %.4g", done, steps, curve[-1]["loss"])
            if saving:
                _write_part(part, checked.identity, state, curve)
            if leaving:
                raise preemption.stop(
                    f"saved step {done} of {steps} in {part}; the same command goes on from there"
                )
    return np.asarray(state.patch), curve


def _batch(data: PatchData, settings: Mapping[str, Any], number: int) -> dict[str, np.ndarray]:
    """What step `number` sees: a function of it and the seed. A last, smaller batch is dropped."""
    seed, size = settings["seed"], settings["batch_size"]
    epoch, at = divmod(number, len(data.images) // size)
    order = np.random.default_rng([_ORDER, seed, epoch]).permutation(len(data.images))
    rows, rng = order[at * size : (at + 1) * size], np.random.default_rng([_STEP, seed, number])
    few = len(data.positives) < size  # of a small set one may come twice
    batch = {
        "images": data.images[rows],
        "positives": data.positives[rng.choice(len(data.positives), size, replace=few)],
        "negatives": rng.permutation(size).astype(np.int32),
    }
    if settings["text_loss"] == "contrastive":
        batch["texts"] = data.texts[data.captions[rows]]
    return batch


def _write_part(part: Path, identity: Mapping[str, Any], state: PatchState, curve: Curve) -> None:
    """What was reached, whole."""
    leaves: dict[str, Any] = {
        f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))
    }
    note = np.frombuffer(json.dumps({"settings": identity, "curve": curve}).encode(), np.uint8)
    with written_whole(part) as scratch, scratch.open("wb") as stream:
        np.savez(stream, note=note, **leaves)


def _read_part(part: Path, identity: Mapping[str, Any]) -> tuple[list[np.ndarray], Curve] | None:
    """The leaves of the state that was reached, and the curve; None where nothing was."""
    if not part.exists():
        return None
    shape = {"settings": dict, "curve": [dict]}
    kinds = (OSError, ValueError, KeyError, BadZipFile)
    with refusing(str(part), "remove it to begin anew", *kinds):
        arrays = np.load(io.BytesIO(read_bytes(part)))
        note = parse_json(str(part), arrays["note"].tobytes(), shape)
        leaves = [arrays[f"leaf{i}"] for i in range(len(arrays.files) - 1)]
    if note["settings"] != identity:
        raise UserError(f"{part} is of another patch: name another --output, or remove it")
    return leaves, note["curve"]


def _floor(checked: CheckedPatch, encoder: Encoder) -> dict[str, Any]:
    """The figures of the patch's file on the surrogate; none where no set is labelled."""
    if checked.measured is None:
        return {}
    config, settings = checked.config, checked.settings
    shape = {"size": checked.side, "place": settings["place"]}
    trigger = {"name": "patch", "file": str(checked.output), **shape}
    with config.unlocked(), config.ignore_type():
        config.evaluation.attack = ConfigDict({"trigger": trigger, "target": settings["target"]})
    return evaluate(config, encoder)["figures"]
