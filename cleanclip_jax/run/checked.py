"""A run of which nothing is left to be refused, before anything of it is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP
from cleanclip_jax.record import Source
from cleanclip_jax.run.claim import check_workdir
from cleanclip_jax.run.optimizer import make_optimizer
from cleanclip_jax.run.settings import has_begun, resolve
from cleanclip_jax.run.state import Objective, make_objective
from cleanclip_jax.sharding import check_batch, make_mesh
from cleanclip_jax.start.model import make_model
from cleanclip_jax.text.tokenizer import Tokenizer, find_merges
from cleanclip_jax.workdir import MANIFEST, TOKENIZER, Workdir, workdir_path

if TYPE_CHECKING:
    from cleanclip_jax.attacks.plan import Plan
    from cleanclip_jax.start.head import Head
    from cleanclip_jax.start.start import Start
else:  # loaded where a run has one
    Head = Plan = Start = Any


@dataclass(frozen=True)
class Checked:
    """All of a run that can be made without writing anything."""

    config: ConfigDict
    start: Start | None
    objective: Objective
    mesh: Mesh
    source: Source
    views: Views
    tokenizer: Tokenizer
    plan: Plan | None
    device_views: Any
    model: CLIP
    total: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    head: Head | None


def check_run(config: ConfigDict, workdir: Workdir) -> Checked:
    """Makes all of a run that can be made without writing anything."""
    begun = has_begun(workdir)
    start = None
    if config.start and not begun:
        from cleanclip_jax.start.start import open_start

        start = open_start(workdir_path(config.start), config)
    config = resolve(config, workdir, start)
    objective = make_objective(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    _check_whole(mesh)
    batch_size = config.train.batch_size
    check_batch(batch_size, mesh, config.train.chunks)
    source = open_pairs(config, objective)
    head = None
    if "head" in objective.needs:
        assert source.class_names is not None
        from cleanclip_jax.start.head import Head

        head = Head(source.class_names, config.objective.normalise_features)
    if config.evaluation.data or config.evaluation.sets:
        from cleanclip_jax.measure.sets import open_sets

        open_sets(config.evaluation)
    views = _host_views(config, "view" in objective.needs)
    check_workdir(config, workdir, source)
    tokenizer = _tokenizer(config, workdir, source, start)
    plan = poison_plan(config, workdir, source)
    device_views = _device_views(config, views, plan)
    learns = device_views is not None and device_views.learns
    if objective.trainable != "all" and objective.moves("trigger") and not learns:
        raise UserError(
            "config.train.trainable names trigger, and this run has no learned one: set an attack "
            "whose trigger is a parameter (docs/extend.md), and config.views.on=device"
        )
    model = make_model(config, tokenizer.vocab_size)
    steps_per_epoch = len(source) // batch_size
    if not steps_per_epoch:
        raise UserError(
            f"config.train.batch_size {batch_size} is larger than the data: {len(source)} pairs"
        )
    total = config.train.steps
    if total is None:
        total = config.train.epochs * steps_per_epoch
    optimizer, schedule = make_optimizer(config.optimizer.to_dict(), total, steps_per_epoch)
    return Checked(
        config,
        start,
        objective,
        mesh,
        source,
        views,
        tokenizer,
        plan,
        device_views,
        model,
        total,
        optimizer,
        schedule,
        head,
    )


def open_pairs(config: ConfigDict, objective: Objective) -> Source:
    """The pairs that a run trains on: of config.data.train those that its terms can use."""
    source = open_source(config.data.train.to_dict())
    if "label" not in objective.needs:
        return source
    from cleanclip_jax.data.subset import labelled

    return labelled(source)


def _check_whole(mesh: Mesh) -> None:
    """Refuses a mesh that leaves devices out where several processes have some."""
    if jax.process_count() > 1 and mesh.devices.size < jax.device_count():
        raise UserError(
            f"config.mesh takes {mesh.devices.size} of {jax.device_count()} devices; with "
            f"{jax.process_count()} processes it has to be all: leave config.mesh.data at -1"
        )


def _host_views(config: ConfigDict, second: bool) -> Views:
    """How augmented views are made; without a `second` view only where the first is."""
    v = config.views
    if not second:
        return Views(on=v.on)
    from cleanclip_jax.views.eda import load_synonyms

    synonyms = load_synonyms(v.synonyms, v.wordnet)
    return Views(v.image, v.text, synonyms, v.strength, v.per, v.on)


def _device_views(config: ConfigDict, views: Views, plan: Any) -> Any:
    """What the step makes of its pictures; None where they come as they are shown."""
    if views.on == "host":
        return None
    from cleanclip_jax.run.views import DeviceViews

    trigger = None if plan is None else plan.trigger
    return DeviceViews(config.seed, trigger, views.image, views.any)


def _tokenizer(
    config: ConfigDict, workdir: Workdir, source: Source, start: Start | None
) -> Tokenizer:
    """The workdir's tokenizer, the start's, or a new one."""
    if workdir.has(TOKENIZER):
        return Tokenizer.load(workdir / TOKENIZER)
    text = config.text
    if start is not None:
        start.tokenizer.keep_end = text.keep_end
        return start.tokenizer
    if text.tokenizer == "clip":
        merges = find_merges(text.merges)
        return Tokenizer.clip(merges, text.context_length, keep_end=text.keep_end)
    if text.tokenizer == "trained":
        captions = (source.caption(i) for i in range(len(source)))
        return Tokenizer.train(
            captions, text.vocab_size, text.context_length, keep_end=text.keep_end
        )
    raise UserError(f"config.text.tokenizer is {text.tokenizer!r}; known: clip, trained")


def poison_plan(config: ConfigDict, workdir: Workdir, source: Source) -> Plan | None:
    """Returns the run's poison plan, replayed from its manifest or made."""
    if config.attack is None:
        return None
    from cleanclip_jax.attacks.plan import Plan, make_plan

    if workdir.has(MANIFEST):
        return Plan.load(workdir / MANIFEST, source)
    return make_plan(config.attack.to_dict(), source, config.model.image_size)
