"""A run of which nothing is left to be refused, before anything of it is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Bool, Int32
from ml_collections import ConfigDict

from cleanclip_jax.config_keys import STEPS
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.data.stream.pipeline import Views
from cleanclip_jax.errors import UserError
from cleanclip_jax.models.clip import CLIP, init
from cleanclip_jax.process import is_first
from cleanclip_jax.record import Source
from cleanclip_jax.run.optimizer import make_optimizer
from cleanclip_jax.run.phases import Steps, rule_of
from cleanclip_jax.run.settings import check_workdir, has_begun, resolve
from cleanclip_jax.run.stages import Rule
from cleanclip_jax.run.state import Objective, check_memory, make_objective
from cleanclip_jax.run.step import make_step
from cleanclip_jax.sharding import check_batch, make_mesh, place_state
from cleanclip_jax.start.model import make_model
from cleanclip_jax.text.tokenizer import Tokenizer, find_merges
from cleanclip_jax.workdir import MANIFEST, SUSPECTS, TOKENIZER, Workdir, workdir_path

if TYPE_CHECKING:
    from cleanclip_jax.attacks.plan import Plan
    from cleanclip_jax.start.head import Head
    from cleanclip_jax.start.start import Start
else:  # loaded where a run has one
    Head = Plan = Start = Any


@dataclass(frozen=True)
class Checked:
    """All of a run that can be made without writing anything.

    Attributes:
      config: with everything filled in, as it is to lie in the workdir.
      begun: whether it has saved a step there.
      rule: which records its stages take.
      total: its last step.
      labels: the class of each pair, where a term needs it.
      suspects: the pairs that are suspected, where a term needs them.
      step: gives, of a step's number, the jitted (state, fixed, batch) to (state, metrics).
      artefacts: what jobs have made, by the terms that need it.
    """

    config: ConfigDict
    begun: bool
    start: Start | None
    objective: Objective
    mesh: Mesh
    source: Source
    views: Views
    tokenizer: Tokenizer
    plan: Plan | None
    device_views: Any
    model: CLIP
    rule: Rule
    total: int
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    head: Head | None
    labels: Int32[np.ndarray, " n"] | None
    suspects: Bool[np.ndarray, " n"] | None
    artefacts: Mapping[str, Any]
    step: Steps

    def weights(self) -> Mapping[str, Any]:
        """The variables that it begins with: fresh by its seed, or its start's."""
        key, change = jax.random.key(self.config.seed), self.config.start_change
        if self.start is None:
            return init(self.model, key)
        variables = self.start.restore(self.model, self.mesh)[1]
        if (change.shrink, change.perturb) == (1, 0):
            return variables
        from cleanclip_jax.start.combine import shrink_and_perturb

        # Another key than that of fresh towers: the start may have begun with those.
        fresh = place_state(self.mesh, init(self.model, jax.random.fold_in(key, 2)))
        return jax.jit(partial(shrink_and_perturb, **change.to_dict()))(variables, fresh)


def check_run(config: ConfigDict, workdir: Workdir) -> Checked:
    """Makes all of a run that can be made without writing anything."""
    begun = has_begun(workdir)
    start = None
    if config.start and not begun:
        from cleanclip_jax.start.start import open_start

        start = open_start(workdir_path(config.start), config, config.start_key)
    config = resolve(config, workdir, start, begun)
    if config.optimizer.moments == "start" and not begun and not hasattr(start, "optimizer_state"):
        raise UserError(
            "config.optimizer.moments is start, but config.start is no run's workdir, which "
            "alone has moments: leave it at fresh"
        )
    objective = make_objective(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    _check_whole(mesh)
    batch_size = config.train.batch_size
    check_batch(batch_size, mesh, config.train.chunks)
    _check_evaluation(config.evaluation)
    if config.train.wandb is not None and is_first():
        from cleanclip_jax.run.weights_and_biases import check_login

        check_login()
    source = open_pairs(config, objective)
    head = None
    if "head" in objective.needs and source.class_names is not None:
        from cleanclip_jax.start.head import Head

        head = Head(source.class_names, config.objective.normalise_features)
    views = _host_views(config, objective)
    check_workdir(config, workdir, source, begun)
    suspects = _suspects(config, objective, source, workdir)
    steps_per_epoch = len(source) // batch_size
    if not steps_per_epoch:
        raise UserError(
            f"config.train.batch_size {batch_size} is larger than the data: {len(source)} pairs"
        )
    rule = rule_of(config, objective, len(source))
    total = rule.stages[-1].last
    if total >= STEPS:
        raise UserError(f"config.train.epochs: {total} steps are more than a run can count")
    tokenizer = _tokenizer(config, workdir, source, start)
    model = make_model(config, tokenizer.vocab_size)
    check_memory(config, model, objective, mesh)
    artefacts: Mapping[str, Any] = {}
    if any(term.artefact for term in objective.terms.values()):
        from cleanclip_jax.run.layers import open_artefacts

        artefacts = open_artefacts(objective, model, start, workdir)
    plan = poison_plan(config, workdir, source)
    if plan is not None:
        plan.check_words(tokenizer)
    device_views = None
    if views.on != "host" or config.views.first == "light":
        from cleanclip_jax.run.views import device_views_of

        device_views = device_views_of(config, views, plan)
    learns = device_views is not None and device_views.learned is not None
    if objective.trainable != "all" and objective.moves("trigger") and not learns:
        raise UserError(
            "config.train.trainable names trigger, and this run has no learned one: set an attack "
            "whose trigger is a parameter (docs/extend.md), and config.views.on=device"
        )
    optimizer, schedule = make_optimizer(
        config.optimizer.to_dict(), total, steps_per_epoch, rule.held
    )
    make = partial(make_step, model, optimizer, schedule, mesh=mesh, views=device_views)
    step = Steps(make, objective, steps_per_epoch)
    labels = source.labels().astype(np.int32) if "label" in objective.needs else None
    return Checked(
        config=config,
        begun=begun,
        start=start,
        objective=objective,
        mesh=mesh,
        source=source,
        views=views,
        tokenizer=tokenizer,
        plan=plan,
        device_views=device_views,
        model=model,
        rule=rule,
        total=total,
        optimizer=optimizer,
        schedule=schedule,
        head=head,
        labels=labels,
        suspects=suspects,
        artefacts=artefacts,
        step=step,
    )


def _check_evaluation(evaluation: ConfigDict) -> None:
    """Opens what a run is to be measured on, before it trains."""
    if evaluation.data or evaluation.sets:
        from cleanclip_jax.measure.goals import goals_of
        from cleanclip_jax.measure.sets import open_sets

        for labelled in open_sets(evaluation):
            goals_of(evaluation, labelled)
    if evaluation.metrics:
        from cleanclip_jax.measure.metrics import METRICS

        names = evaluation.metrics
        for name in [names] if isinstance(names, str) else names:
            METRICS.find(name)


def open_pairs(config: ConfigDict, objective: Objective) -> Source:
    """The pairs that a run trains on: of config.data.train those that its terms can use."""
    source = open_source(config.data.train.to_dict())
    if "label" not in objective.needs:
        return source
    from cleanclip_jax.data.subset import labelled

    return labelled(source)


def _suspects(
    config: ConfigDict, objective: Objective, source: Source, workdir: Workdir
) -> Bool[np.ndarray, " n"] | None:
    """The suspects among the pairs, where a term needs them: the workdir's, or the config's."""
    if ("suspect" in objective.needs) != (config.data.suspects is not None):
        raise UserError(
            "config.data.suspects goes with the terms others and unlearn of config.objective: "
            "give both or neither"
        )
    if config.data.suspects is None:
        return None
    from cleanclip_jax.data.suspects import find_suspects

    copy = workdir / SUSPECTS if workdir.has(SUSPECTS) else None
    return find_suspects(config.data.suspects.to_dict(), source, copy)


def _check_whole(mesh: Mesh) -> None:
    """Refuses a mesh that leaves devices out where several processes have some."""
    if jax.process_count() > 1 and mesh.devices.size < jax.device_count():
        raise UserError(
            f"config.mesh takes {mesh.devices.size} of {jax.device_count()} devices; with "
            f"{jax.process_count()} processes it has to be all: leave config.mesh.data at -1"
        )


def _host_views(config: ConfigDict, objective: Objective) -> Views:
    """How augmented views are made, where a term needs them; else only where the first is."""
    v = config.views
    second = "view" in objective.needs
    first = "strong" if v.first == "strong" else "none"  # a light one is made in the step
    if not second and first == "none":
        return Views(on=v.on)
    if second and v.image == v.text == "none":
        wanting = (name for name, term in objective.terms.items() if "view" in term.needs)
        raise UserError(
            f"config.objective.{next(wanting)} compares with augmented views, and "
            "config.views.image and config.views.text are both none: set one"
        )
    from cleanclip_jax.views.eda import load_synonyms

    synonyms = load_synonyms(v.synonyms, v.wordnet)
    kinds = (v.image, v.text) if second else ("none", "none")
    return Views(*kinds, synonyms, v.strength, v.per, v.on, first, v.crop)


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
        captions = (text for i in range(len(source)) for text in source.all_captions(i))
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
