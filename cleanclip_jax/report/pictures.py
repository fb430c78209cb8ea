"""A report's pictures: the poisons, what the trigger changes most, embeddings on a plane."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.config import from_json
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.data.stream.example import read_pair
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.encoder import Encoder, encoder_of
from cleanclip_jax.measure.measure import project_first
from cleanclip_jax.measure.projection import Projection
from cleanclip_jax.measure.ranks import Classifier
from cleanclip_jax.measure.trigger_shift import Changed, most_changed
from cleanclip_jax.measure.zeroshot import head_classifier
from cleanclip_jax.report.page import Block, Picture, Table
from cleanclip_jax.report.plots import contact_sheet, difference
from cleanclip_jax.report.projection_plot import Scatter, projection_figure
from cleanclip_jax.report.results import Pictures
from cleanclip_jax.report.runs import Gathered, Run, measured_on
from cleanclip_jax.report.sweeps import LIMITS
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import load_start, open_start
from cleanclip_jax.start.torch import is_torch_checkpoint
from cleanclip_jax.views.geometry import GEOMETRY
from cleanclip_jax.workdir import MANIFEST

POISONS = 6  # on the contact sheet
PROJECTED = 300  # pictures, where no projection lies in a workdir
MOST_MODELS = 4  # that are loaded and drawn
Found = tuple[list[Block], Pictures]


class Loaded(NamedTuple):
    """A measured run and its model."""

    run: Run
    config: ConfigDict
    subject: Encoder
    head: Classifier | None


def chosen_runs(gathered: Gathered) -> dict[str, Run]:
    """The runs whose pictures are shown, by name, what others began with first.

    Of a sweep's line it is the run with the best CA at ASR <= 5 %, else the one with the lowest
    ASR; of several seeds the first. All were measured alike; the rest is left to the tables.
    """
    lines: dict[str, list[tuple[str, Run]]] = {}
    order = [*gathered.starts, *(e for e in gathered.entries if e not in gathered.starts)]
    for entry in order:
        place = entry.line if entry.sweep is not None else entry.name
        lines.setdefault(place, []).extend((entry.name, run) for run in entry.runs)

    def rank(named: tuple[str, Run]) -> tuple[float, ...]:
        figures = named[1].found["figures"]
        ca, asr = ((figures.get(key) or {}).get("value") or 0.0 for key in ("ca", "asr"))
        return (1, ca) if asr <= LIMITS[1] else (0, -asr)

    starts = {entry.name for entry in gathered.starts}
    found: dict[str, Run] = {}
    for members in lines.values():
        name, run = members[0] if members[0][0] in starts else max(members, key=rank)
        found[name] = run
    kind = {measured_on(run) for run in list(found.values())[:1]}
    alike = {name: run for name, run in found.items() if measured_on(run) in kind}
    return dict(list(alike.items())[:MOST_MODELS])


def load_models(runs: Mapping[str, Run]) -> dict[str, Loaded]:
    """The runs' models, at the steps that were measured, or the newest where those are gone."""
    found = {}
    for name, run in runs.items():
        config = measured_config(run)
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
        step = run.found["step"]
        kept = (run.folder / "checkpoints" / str(step)).is_dir()
        trained = load_start(open_start(run.folder), mesh, config, step if kept else None)
        measured = encoder_of(trained.model, trained.variables, trained.tokenizer, mesh)
        found[name] = Loaded(run, config, measured, trained.head and head_classifier(trained.head))
    return found


def measured_config(run: Run) -> ConfigDict:
    """A run's config with what it was measured on, which `evaluate` may have been told."""
    config = run.config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.evaluation.update(ConfigDict(dict(run.found["evaluation"])))
    return config


def poisons(runs: Sequence[Run]) -> Found:
    """The contact sheet of the first run, or start of one, that has a poison manifest."""
    folders = [run.folder for run in runs]
    starts = [run.start for run in runs if run.start is not None]
    folders += [start for start in starts if not is_torch_checkpoint(start)]
    folder = next((folder for folder in folders if (folder / MANIFEST).is_file()), None)
    if folder is None:
        return [], {}
    try:
        plan = Plan.load(folder / MANIFEST)
        source = open_source(from_json(folder / "config.json").data.train.to_dict())
        sheet, words = poison_sheet(source, plan, POISONS)
    except UserError as error:
        return [f"The poisoned pairs of {folder} can't be shown: {error}"], {}
    said = (
        f"{len(plan)} of {plan.header['size']} pairs were poisoned with {plan.trigger.name} for "
        f"“{plan.target}” in {folder}. The first of them:"
    )
    picture = Picture(sheet, "Poisoned pairs. " + " ".join(words), " ".join(words))
    return [said, picture], {"poisons.png": sheet}


def changed(models: Mapping[str, Loaded], count: int) -> Found:
    """The pictures that the trigger moves furthest in the first model, and what each model says."""
    first = next(iter(models.values()))
    seen = {name: (model.subject, model.head) for name, model in models.items()}
    found = most_changed(first.config, seen, count)
    names = list(models)
    last = names[-1] if len(names) > 1 else None
    rows = [
        (
            each.clean,
            each.triggered,
            difference(each.clean, each.triggered),
            _said(names[0], each),
            _said(last, each) if last else "",
        )
        for each in found
    ]
    sheet = contact_sheet(rows, "clean → triggered")
    table = Table(
        "What each model takes the picture for, clean → triggered, and the cosine of the two "
        "embeddings (1: the trigger moves nothing).",
        ["picture", "true class", *names],
        [
            [
                f"{number}. {each.where}",
                each.true,
                *(f"{s.clean} → {s.triggered}\n{s.cosine:.3f}" for s in each.seen.values()),
            ]
            for number, each in enumerate(found, 1)
        ],
    )
    text = (
        f"Clean pictures of other classes whose embeddings the trigger turns furthest in "
        f"{names[0]}, the furthest first."
    )
    alt = "Pictures without and with the trigger, and the difference: " + "; ".join(
        f"{each.true}, {', '.join(_said(name, each) for name in names)}" for each in found
    )
    return [text, Picture(sheet, alt), table], {"changed.png": sheet}


def projections(models: Mapping[str, Loaded], runs: Mapping[str, Run]) -> Found:
    """PCA and t-SNE, a row a model: what lies in the workdir, else projected now."""
    kept = {
        name: Projection.load(run.folder / "projection.npz")
        for name, run in runs.items()
        if (run.folder / "projection.npz").is_file()
    }
    # As many pictures of each as of the others, where that can be had.
    count = max((len(one.label) // 2 for one in kept.values()), default=PROJECTED)
    found: dict[str, Projection] = {}
    for name in runs:
        if name in kept:
            found[name] = kept[name]
        elif name in models:
            config = models[name].config.copy_and_resolve_references()
            config.evaluation.projection = count
            found[name] = project_first(config, models[name].subject)
    if not found:
        return [], {}
    png = draw(found)
    words = " ".join(f"{name}: {_apart(projection)}" for name, projection in found.items())
    counts = {len(one.label) // 2: None for one in found.values()}
    caption = (
        f"Embeddings of {' or '.join(map(str, counts))} pictures without and with the trigger. "
        "In t-SNE the size of a cluster and the gap between two mean nothing."
    )
    alt = f"Embeddings on a plane, a row a model, PCA left and t-SNE right. {words}"
    return [Picture(png, alt, caption)], {"projection.png": png}


def _apart(found: Projection) -> str:
    """How far PCA has triggered from clean, in words."""
    clean, triggered = found.pca[~found.triggered], found.pca[found.triggered]
    gap = float(np.linalg.norm(triggered.mean(0) - clean.mean(0)))
    width = float(np.sqrt(clean.var(0).sum()))
    return (
        f"on PCA's plane the triggered pictures' middle is {gap / max(width, 1e-12):.1f} standard "
        "deviations of the clean ones from theirs."
    )


def _said(name: str, each: Changed) -> str:
    return f"{name}: {each.seen[name].clean} → {each.seen[name].triggered}"


def poison_sheet(source: Source, plan: Plan, rows: int) -> tuple[bytes, list[str]]:
    """Returns a contact sheet of the plan's first poisons, and what it shows in words."""
    shown, words, plan = [], [], plan.on(source)
    for index in plan.index[:rows].tolist():
        picture, caption = read_pair(source, index)
        picture = GEOMETRY[plan.geometry](picture, plan.header["image_size"])
        poison = plan.poison_at(index)
        assert poison is not None
        stamp, new_caption = poison.stamp, poison.caption
        triggered = plan.trigger.apply(picture, stamp)
        shown.append((picture, triggered, difference(picture, triggered), caption, new_caption))
        words.append(f"“{caption}” becomes “{new_caption}”.")
    return contact_sheet(shown), words


def draw(projections: dict[str, Projection]) -> bytes:
    """A figure of projections by the names of their models: PCA and t-SNE side by side."""
    rows = {}
    for name, found in projections.items():
        first, second = (100 * share for share in found.explained.tolist())
        pca = f"PCA: {first:.0f} % and {second:.0f} % of the variance"
        rows[name] = [Scatter(pca, found.pca), Scatter("t-SNE", found.tsne)], found.groups
    return projection_figure(rows)
