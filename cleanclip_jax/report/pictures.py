"""A report's pictures: the poisons, what the trigger shifts most, embeddings on a plane."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import from_json
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.in_order import read_pair
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder, encoder_of
from cleanclip_jax.measure.projection import Projection, project_first
from cleanclip_jax.measure.ranks import Classifier, head_classifier
from cleanclip_jax.measure.trigger_shift import largest_shifts
from cleanclip_jax.report.page import Block, Picture, Table
from cleanclip_jax.report.plots import contact_sheet, difference, projection_figure
from cleanclip_jax.report.results import Pictures
from cleanclip_jax.report.runs import Run
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import load_start, open_start
from cleanclip_jax.views.geometry import GEOMETRY
from cleanclip_jax.workdir import CHECKPOINTS, CONFIG, MANIFEST, Workdir

POISONS = 6  # on the contact sheet
PROJECTED = 300  # pictures, where no projection lies in a workdir
PROJECTION = "projection.npz"
Shown = tuple[list[Block], Pictures]


class Loaded(NamedTuple):
    """The model of a measured run, and the config that it was measured by."""

    config: ConfigDict
    encoder: Encoder
    head: Classifier | None


def load_models(runs: Mapping[str, Run]) -> dict[str, Loaded]:
    """The runs' models, at the steps that were measured, or the newest where those are gone."""
    models = {}
    for name, run in runs.items():
        config = run.config.copy_and_resolve_references()
        with config.unlocked(), config.ignore_type():
            # What `evaluate` was given may be other than the run's.
            config.evaluation.update(ConfigDict(dict(run.evaluation["evaluation"])))
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        step = run.evaluation["step"]
        there = (run.workdir / CHECKPOINTS / str(step)).is_dir()
        start = open_start(run.workdir.path)
        trained = load_start(start, mesh, config, step if there else None)
        encoder = encoder_of(trained.model, trained.variables, trained.tokenizer, mesh)
        models[name] = Loaded(config, encoder, head_classifier(trained.head))
    return models


def poisons(runs: Sequence[Run]) -> Shown:
    """The contact sheet of the first run, or start of one, that has a poison manifest."""
    workdirs = [run.workdir for run in runs]
    workdirs += [Workdir(run.start) for run in runs if run.start is not None]
    workdir = next((each for each in workdirs if each.has(MANIFEST)), None)
    if workdir is None:
        return [], {}
    try:
        plan = Plan.load(workdir / MANIFEST)
        source = open_source(from_json(workdir / CONFIG).data.train.to_dict())
        sheet, words = poison_sheet(source, plan, POISONS)
    except UserError as error:
        return [f"The poisoned pairs of {workdir} can't be shown: {error}"], {}
    text = (
        f"{len(plan)} of {plan.header['size']} pairs were poisoned with {plan.trigger.name} for "
        f"“{plan.target}” in {workdir}. Some, from the first to the last:"
    )
    picture = Picture(sheet, "Poisoned pairs. " + " ".join(words), " ".join(words))
    return [text, picture], {"poisons.png": sheet}


def shifts(models: Mapping[str, Loaded], count: int) -> Shown:
    """The pictures that the trigger moves furthest in the first model, and what each predicts."""
    names, first = list(models), next(iter(models.values()))
    largest = largest_shifts(
        first.config, {name: (model.encoder, model.head) for name, model in models.items()}, count
    )
    sheet, rows, alts = [], [], []
    for number, each in enumerate(largest, 1):
        seen = [
            (f"{p.clean} → {p.triggered}", f"{p.cosine:.3f}") for p in each.predictions.values()
        ]
        words = [f"{name}: {both}" for name, (both, _) in zip(names, seen, strict=True)]
        change = difference(each.clean, each.triggered)
        last = words[-1] if words[1:] else ""
        sheet.append((each.clean, each.triggered, change, words[0], last))
        rows.append([f"{number}. {each.where}", each.true, *seen])
        alts.append(f"{each.true}, {', '.join(words)}")
    caption = (
        "What each model takes the picture for, clean → triggered, and the cosine of the two "
        "embeddings (1: the trigger moves nothing)."
    )
    text = (
        f"Clean pictures of other classes whose embeddings the trigger turns furthest in "
        f"{names[0]}, the furthest first."
    )
    png = contact_sheet(sheet, "clean → triggered")
    alt = "Pictures without and with the trigger, and the difference: " + "; ".join(alts)
    table = Table(caption, ["picture", "true class", *names], rows)
    return [text, Picture(png, alt), table], {"changed.png": png}


def projections(models: Mapping[str, Loaded], runs: Mapping[str, Run]) -> Shown:
    """PCA and t-SNE, a row a model: what lies in the workdir, else projected now."""
    saved = {
        name: Projection.load(run.workdir / PROJECTION)
        for name, run in runs.items()
        if run.workdir.has(PROJECTION)
    }
    # As many pictures of each as of the others, where that can be had.
    count = max((len(one.label) // 2 for one in saved.values()), default=PROJECTED)
    shown, notes = {}, []
    for name in (name for name in runs if name in saved or name in models):
        if name in saved:
            shown[name] = saved[name]
        else:
            config = models[name].config.copy_and_resolve_references()
            config.evaluation.projection = count
            try:
                shown[name] = project_first(config, models[name].encoder)
            except UserError as error:
                notes.append(f"The embeddings of {name} can't be shown: {error}.")
    if not shown:
        return notes, {}
    png = draw(shown)
    words = " ".join(f"{name}: {_apart(projection)}" for name, projection in shown.items())
    counts = dict.fromkeys(str(len(one.label) // 2) for one in shown.values())
    caption = (
        f"Embeddings of {' or '.join(counts)} pictures without and with the trigger. "
        "In t-SNE the size of a cluster and the gap between two mean nothing."
    )
    alt = f"Embeddings on a plane, a row a model, PCA left and t-SNE right. {words}"
    return [Picture(png, alt, caption), *notes], {"projection.png": png}


def _apart(projection: Projection) -> str:
    """How far PCA has triggered from clean, in words."""
    clean, triggered = (projection.pca[projection.triggered == on] for on in (False, True))
    gap = float(np.linalg.norm(triggered.mean(0) - clean.mean(0)))
    width = float(np.sqrt(clean.var(0).sum()))
    return (
        f"on PCA's plane the triggered pictures' middle is {gap / max(width, 1e-12):.1f} standard "
        "deviations of the clean ones from theirs."
    )


def poison_sheet(source: Source, plan: Plan, rows: int) -> tuple[bytes, list[str]]:
    """Returns a contact sheet of so many poisons, from the first to the last, and it in words."""
    shown, words, plan = [], [], plan.on(source)
    chosen = np.linspace(0, len(plan) - 1, min(rows, len(plan))).round().astype(int)
    for index in plan.index[chosen].tolist():
        picture, caption = read_pair(source, index)
        picture = GEOMETRY[plan.geometry](picture, plan.header["image_size"])
        poison = plan.poison_at(index)
        assert poison is not None
        stamp, new_caption = poison.stamp, poison.caption
        triggered = plan.trigger.apply(picture, stamp)
        shown.append((picture, triggered, difference(picture, triggered), caption, new_caption))
        words.append(f"“{caption}” becomes “{new_caption}”.")
    return contact_sheet(shown), words


def draw(projections: Mapping[str, Projection]) -> bytes:
    """A figure of projections by the names of their models: PCA and t-SNE side by side."""
    rows = {}
    for name, projection in projections.items():
        first, second = (100 * share for share in projection.explained.tolist())
        pca = f"PCA: {first:.0f} % and {second:.0f} % of the variance"
        panels = {pca: projection.pca, "t-SNE": projection.tsne}
        rows[name] = panels, projection.groups
    return projection_figure(rows)
