"""Splits of a run's pairs by the model that it trains: scored once, written, and read again.

WORKDIR/splits/EPOCH.npz holds scores, what the rule decided, the data's fingerprint and the digest
of the checkpoint that was scored. The state carries that digest from then on, so that a run that is
taken up takes no other split for its own.
"""

import hashlib
import io
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import read_bytes, writing
from cleanclip_jax.measure.encoder import Encoder, encoder_of, hash_arrays
from cleanclip_jax.measure.features import Shown, embed, reading_of, rows_of_all
from cleanclip_jax.measure.ranks import unit
from cleanclip_jax.process import agreed, is_first, largest
from cleanclip_jax.run.checked import Checked
from cleanclip_jax.run.stages import Split, Stage
from cleanclip_jax.run.state import SPLIT, State
from cleanclip_jax.sharding import copied_over, place_state
from cleanclip_jax.workdir import SPLITS, Workdir

log = logging.getLogger(__name__)

TEXTS = 8192  # captions whose embeddings are in memory at once


def begin_split(workdir: Workdir, run: Checked, stage: Stage, state: State, step: int) -> Split:
    """The split of a stage that begins or goes on; marks the state with it.

    Args:
      step: at which the state stands.
    """
    carried = np.asarray(state.memory[SPLIT].addressable_data(0)).tobytes().hex()
    name, before = f"{SPLITS}/{stage.split}.npz", None
    if step > stage.first or stage.split < stage.epoch:
        return read_split(workdir, run, name, carried)
    if earlier := max((s.split for s in run.rule.stages if s.split < stage.split), default=0):
        before = read_split(workdir, run, f"{SPLITS}/{earlier}.npz", carried)
    whole = jax.jit(lambda x: x, out_shardings=copied_over(run.mesh))
    variables = whole({"params": state.params, "batch_stats": state.batch_stats})
    encoder = encoder_of(run.model, variables, run.tokenizer, run.mesh)
    digest = hash_arrays(hashlib.sha256(), encoder.variables).digest()
    # One answer for all processes: one of them may have written it a moment later.
    if largest(float(not workdir.has(name)))[0]:
        scores = pair_scores(run, encoder)
        with agreed(), writing(workdir.path):
            if is_first():
                facts = {"checkpoint": digest.hex(), "fingerprint": run.source.fingerprint}
                split = run.rule.decide(scores, stage, before)
                stream = io.BytesIO()
                np.savez(stream, scores=scores, **split, **facts)
                workdir.write(name, stream.getvalue())
    with agreed():
        split = read_split(workdir, run, name, digest.hex())
    state.memory[SPLIT] = place_state(run.mesh, np.frombuffer(digest, np.uint8))
    _tell(run, stage, split)
    return split


def read_split(workdir: Workdir, run: Checked, name: str, digest: str) -> Split:
    """A split file of this run's data and of the checkpoint of that digest."""
    path, split = workdir / name, {}
    try:
        data = read_bytes(path)
        with np.load(io.BytesIO(data)) as arrays:
            if sum(file.file_size for file in arrays.zip.infolist()) > len(data):
                raise ValueError("it is compressed")
            split = {key: arrays[key] for key in arrays.files}
        rows = {"scores": float, "chosen": bool} | dict.fromkeys(run.rule.columns, float)
        shapes = {key: ((len(run.source),), kind) for key, kind in rows.items()}
        shapes |= dict.fromkeys(run.rule.numbers, ((), np.int64))
        for key, (shape, kind) in shapes.items():
            if split[key].dtype != kind or split[key].shape != shape:
                raise ValueError(f"{key} is {split[key].dtype}{list(split[key].shape)}")
        facts = [str(split[key]) for key in ("fingerprint", "checkpoint")]
    except UserError as error:
        raise UserError(f"{error}: bring it back, or begin anew in another workdir") from None
    except Exception as error:  # NumPy and zipfile have errors of many kinds
        raise UserError(
            f"{path} is no split of these {len(run.source)} pairs ({reason(error)}): bring it back"
        ) from None
    for given, wanted, what in zip(
        facts, (run.source.fingerprint, digest), ("pairs", "checkpoint"), strict=True
    ):
        if given != wanted:
            raise UserError(
                f"{path} is a split by another {what} ({given[:12]}, not {wanted[:12]}): bring "
                "this run's back, or begin anew in another workdir"
            )
    return split


def pair_scores(run: Checked, encoder: Encoder) -> Float64[np.ndarray, " n"]:
    """The cosine of each pair as it is trained on, without augmentation; NaN: it is unreadable.

    In evaluation mode, each record once; every process scores a part, and has all.
    """
    count, reading = len(run.source), replace(reading_of(run.config), cache=0)
    shown = Shown(run.source, np.arange(count), plan=run.plan)
    pictures = embed(encoder, shown, reading)
    place = slice(*_share(len(pictures.index)))
    rows, index = pictures.rows[place], pictures.index[place]
    scores = np.full(len(index), np.nan)
    for first in range(0, len(index), TEXTS):
        part = slice(first, first + TEXTS)
        captions = [_caption(run, int(i)) for i in index[part]]
        texts = encoder.text_features([caption or " " for caption in captions])
        v, u = (unit(x.astype(np.float64)) for x in (rows[part], texts))
        cosines = (v * u).sum(1)
        scores[part] = np.where([bool(caption.strip()) for caption in captions], cosines, np.nan)
    every = np.full(count, np.nan)
    every[pictures.index] = rows_of_all(scores) if jax.process_count() > 1 else scores
    return every


def _share(count: int) -> tuple[int, int]:
    """The first and the end of this process's part of so many."""
    parts, process = jax.process_count(), jax.process_index()
    return count * process // parts, count * (process + 1) // parts


def _caption(run: Checked, index: int) -> str:
    poison = None if run.plan is None else run.plan.poison_at(index)
    return run.source.caption(index) if poison is None else poison.caption


def _tell(run: Checked, stage: Stage, split: Mapping[str, Any]) -> None:
    """Logs how many pairs were chosen and, where it is known, how many of the poisons."""
    chosen = split["chosen"]
    text = f"epoch {stage.epoch}: {chosen.sum()} of {len(chosen)} pairs are chosen"
    if run.plan is not None:
        text += f", and {chosen[run.plan.index].sum()} of {len(run.plan)} poisons"
    log.info("%s (%s)", text, f"{SPLITS}/{stage.epoch}.npz")
