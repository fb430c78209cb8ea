"""The keys of a config, each declared once, here or in table_keys.py: docs/config.md has them all.

`python -m cleanclip_jax.key_list > docs/config.md` writes it anew. A key of one's own is added by
`config.declare`.
"""

from typing import Any

from cleanclip_jax.keys import (
    Key,
    choice,
    flag,
    is_number,
    is_table,
    is_text,
    is_texts,
    number,
    share,
    table,
    text,
    texts,
    whole,
)
from cleanclip_jax.registry import Registry

POOLS = "empty | noise | unit_noise"  # what a pool of embeddings begins with
DTYPES = "float32 | bfloat16 | float64"


STEPS = 2**31  # a step is an int32
SIDE = 2**14  # of a picture, in pixels


def weight(default: float, meaning: str) -> Key:
    """A term's weight, or a dictionary of its `weight` and its options."""

    def accepts(value: Any) -> bool:
        number = value.get("weight", 1.0) if is_table(value) else value
        return is_number(number) and number >= 0

    return Key(
        default,
        "a weight from 0 on, or a dictionary of weight and options",
        accepts,
        meaning,
        table=True,
        convert=lambda v: float(v) if is_number(v) else v,
    )


def _warmup(value: Any) -> bool:
    steps = whole(0, below=STEPS).accepts
    return steps(value) or (is_number(value) and 0 < value < 1)


def _lengths(value: Any) -> bool:
    accepts = whole(1, least=1, below=SIDE).accepts
    return isinstance(value, list | tuple) and all(map(accepts, value))


def _sets(value: Any) -> bool:
    return is_texts(value) or (
        isinstance(value, list | tuple) and all(is_text(one) or is_table(one) for one in value)
    )


def _of_table(name: str, keys: str) -> dict[str, str]:
    """Where the keys of a table that few runs have are declared: loaded where a config has one."""
    return {
        f"{name}.{key}": f"cleanclip_jax.table_keys:{name.upper()}.{key}" for key in keys.split()
    }


KEYS: Registry[Key] = Registry(
    "config",
    {
        "seed": whole(0, "draws everything: weights, the stream, the poisons"),
        "start": text(
            None,
            "workdir whose newest checkpoint gives the weights, the architecture and the "
            "tokenizer; or a PyTorch checkpoint (docs/interop.md)",
        ),
        "start_key": text(
            None, "where in a PyTorch checkpoint the state dict lies, in place of the usual keys"
        ),
        "start_change.shrink": number(1.0, "the start's parameters times so much", 0, 1),
        "start_change.perturb": number(0.0, "and so much of fresh ones added", most=1e6),
        "start_change.logit_scale": flag(False, "logit_scale too, as in the original"),
        "model.variant": Key(
            None,
            "a name, or a dictionary of numbers",
            lambda v: (isinstance(v, str) and bool(v)) or hasattr(v, "items"),
            "an architecture: docs/models.md",
            text=True,
            table=True,
        ),
        "model.activation": choice(None, "quick_gelu | gelu | gelu_tanh", "of both towers"),
        "model.image_size": whole(None, "pixels a side, in place of the variant's", 1, below=SIDE),
        "model.dtype": choice("float32", DTYPES, "of the computation"),
        "model.param_dtype": choice("float32", DTYPES, "of the parameters"),
        "model.bn_groups": whole(1, "groups of the batch, each with its own statistics", 1),
        "model.bn_frozen": flag(False, "running statistics in training too"),
        "model.attention": choice("xla", "xla | cudnn", "cudnn: fused, on NVIDIA in bfloat16"),
        "model.scan": flag(False, "transformer blocks as one compiled loop"),
        "model.remat": flag(False, "recompute activations instead of storing them"),
        "text.tokenizer": Key(
            None,
            "clip | trained",
            # "unknown" is a converted checkpoint's that has a vocabulary of its own.
            lambda v: v in ("clip", "trained", "unknown"),
            "the published vocabulary, or one trained on the captions",
            words=("clip", "trained"),
            text=True,
        ),
        "text.merges": text(None, "CLIP's merges file; else the cache; else downloaded"),
        "text.vocab_size": whole(512, "of a trained vocabulary", 1, below=2**20),
        "text.context_length": whole(None, "tokens a caption; else the variant's", 3, below=SIDE),
        "text.keep_end": flag(True, "False: a cut caption loses its end, as in the original"),
        "data.train": table({}, "the source of pairs, by its kind: docs/data.md"),
        "data.workers": whole(0, "processes that decode; 0: a thread of this one", below=1025),
        "data.decode": choice("exact", "exact | fast", "fast: nearly the pixels, at half the cost"),
        "data.resident": flag(False, "all pictures in device memory, where there is room for them"),
        "data.resident_share": share(0.5, "of a device's free memory, that they may take", "<"),
        "data.timeout": number(120.0, "seconds without a batch that end the run", 0, 1e6, "<"),
        "data.max_bad_share": share(0.01, "of unreadable records, before the run stops"),
        "data.suspects": table(
            None, "pairs not to be trusted: a manifest's, or a score file's highest share"
        ),
        "data.suspects.manifest": text(None, "of a plan: what is poisoned in truth, an oracle"),
        "data.suspects.scores": text(None, "a score file: docs/data.md"),
        "data.suspects.share": number(None, "of the scores, the highest", 0, 1, "<>"),
        "attack": table(None, "trigger x plan: docs/attacks.md; None: clean pairs"),
        **_of_table(
            "attack",
            "trigger target count rate select captions pool templates words text "
            "half_keys pictures kind victims copies drop_own data parts geometry "
            "seed manifest",
        ),
        "views.first": choice(
            "none",
            "none | light | strong",
            "the pair itself; light: noise and a square, as PAR's; strong: as RoCLIP's",
        ),
        "patch": table(None, "the trigger that `cleanclip patch` optimises: docs/attacks.md"),
        **_of_table(
            "patch",
            "target words size place text_loss visual_loss margin weight negatives "
            "view view_per pictures select batch_size steps step_size seed",
        ),
        "views.crop": share(0.08, "of a picture, that a strong view shows at least", "<"),
        "views.image": choice(
            "autoaugment", "autoaugment | strong | none", "the augmented picture"
        ),
        "views.text": choice("eda", "eda | none", "the augmented caption"),
        "views.synonyms": choice("none", "none | wordnet", "that EDA replaces words by"),
        "views.wordnet": text(None, "the folder of WordNet's dictionary"),
        "views.strength": share(0.1, "of a caption's words, that EDA changes"),
        "views.on": choice("host", "host | device", "device: pictures are changed in the step"),
        "views.per": choice("epoch", "epoch | once", "once: captions are drawn as the original's"),
        "objective.cross_modal": weight(1.0, "MMCL"),
        "objective.in_modal": weight(0.0, "SS: 1 makes it CleanCLIP; 0 needs no views"),
        "objective.perturb": weight(0.0, "PAR: away from the frozen start, up to `threshold`"),
        "objective.perturb.threshold": number(2.15, "of a batch's mean squared distance", 0, 4),
        "objective.others": weight(0.0, "MMCL among the pairs that are no suspects"),
        "objective.unlearn": weight(0.0, "suspects' cosines to -`target`"),
        "objective.unlearn.target": number(0.0, "0: to 0; 1: apart; -1: together", -1, 1),
        "objective.matched": weight(0.0, "RoCLIP: from a pool, in its epochs in place of MMCL"),
        "objective.matched.pool": whole(21_845, "captions in it", 1, below=2**31),
        "objective.matched.every": whole(2, "its epochs, from 1, are those that this divides", 1),
        "objective.matched.start": choice("empty", POOLS, "noise: the published code's"),
        "objective.matched.update": choice("always", "always | matched", "steps that feed it"),
        "objective.nearest_in_modal": weight(0.0, "SafeCLIP: views against neighbours in pools"),
        "objective.nearest_in_modal.pool": whole(256, "rows of each pool", 1, below=2**31),
        "objective.nearest_in_modal.start": choice("empty", POOLS, "noise: the published code's"),
        "objective.crossed": weight(0.0, "SafeCLIP: each side against the other's view"),
        "objective.align": weight(
            0.0, "InverTune: units as without the trigger; `inverted`: of cleanclip invert"
        ),
        "objective.preserve": weight(0.0, "InverTune: embeddings as the frozen start's"),
        "objective.classification": weight(0.0, "a linear head's cross-entropy with the class"),
        "objective.normalise_features": flag(False, "the head sees features of unit length"),
        "objective.separate_views": flag(False, "a forward a view, for batch norm"),
        "objective.ring": flag(False, "compare in a ring: memory grows with the batch alone"),
        "safe": table(None, "SafeCLIP: epochs of all pairs, then risky and safe ones in turn"),
        **_of_table("safe", "warm_in_modal warm_cross warm_cross_rate threshold grow cap order"),
        "removal": table(None, "drops the pairs of the highest scores after the named epochs"),
        **_of_table("removal", "after share"),
        "optimizer.learning_rate": number(5e-4, "the highest, after the warmup", most=1e6),
        "optimizer.warmup_steps": Key(
            10_000,
            "a whole number, 0 or more; or a share of all steps, below 1",
            _warmup,
            "of a linear warmup",
            convert=lambda v: float(v) if 0 < v < 1 else int(v),
        ),
        "optimizer.beta1": number(0.9, "AdamW's", 0, 1, ">"),
        "optimizer.beta2": number(0.999, "AdamW's", 0, 1, ">"),
        "optimizer.epsilon": number(1e-8, "AdamW's"),
        "optimizer.weight_decay": number(0.1, "AdamW's", most=1e6),
        "optimizer.decay_mask": choice(
            "role",
            "role | original | matrices",
            "what decays: docs/fidelity.md; matrices: PAR's, of those no vector",
        ),
        "optimizer.clip_norm": number(None, "a step's gradient norm is cut to it", 0, 1e6, "<"),
        "optimizer.moments": choice("fresh", "fresh | start", "start: the start's go on"),
        "optimizer.schedule": choice(
            "cosine",
            "cosine | original | two_phase",
            "original: from epoch 1; two_phase: PAR's, from first_rate down",
        ),
        "optimizer.first_rate": number(None, "two_phase: the warmup goes from it", most=1e6),
        "optimizer.last_rate": number(None, "two_phase: the cosine ends at it", most=1e6),
        "train.batch_size": whole(128, "pairs, over all devices", 1, below=2**31),
        "train.chunks": whole(1, "encode the batch in so many parts: the memory of one", 1),
        "train.text_lengths": Key(
            (16, 32, 48),
            "whole numbers, as (16, 32, 48), or () for whole captions",
            _lengths,
            "captions are cut to what a batch's longest needs",
            convert=tuple,
        ),
        "train.epochs": whole(64, "over the data", 1, below=STEPS),
        "train.steps": whole(None, "in place of epochs", 1, below=STEPS),
        "train.trainable": texts(
            "all",
            "the parts of the parameters that move; visual: image tower and head; towers: both, "
            "without logit_scale",
            "all | visual | towers | head, or a list of parts",
        ),
        "train.log_every": whole(10, "steps between lines of metrics.jsonl", 1),
        "train.checkpoint_every": whole(1000, "steps between checkpoints", 1),
        "train.keep": whole(2, "newest checkpoints that stay", 1),
        "train.wandb": text(None, "a project of Weights & Biases that the metrics go to, too"),
        "mesh.data": whole(-1, "devices that share the batch; -1: all", 1, also=-1),
        "mesh.fsdp": whole(1, "that share it and the parameters; data x fsdp devices", 1),
        "mesh.heartbeat": whole(60, "seconds of silence that give up a process", 1, below=10**6),
        "evaluation.data": table(None, "a labelled source: docs/data.md"),
        "evaluation.sets": Key(
            None,
            "names of labelled sets, or dictionaries",
            _sets,
            "more labelled sets: docs/metrics.md",
            text=True,
        ),
        "evaluation.classes": text(None, "class names: a .json or .py file, or FILE#KEY"),
        "evaluation.templates": texts(None, "prompts: a set, a file or a list; None: imagenet"),
        "evaluation.target": Key(
            None,
            "a class name or index",
            lambda v: is_text(v) or (type(v) is int and 0 <= v < 2**31),
            "None: the attack's",
            text=True,
        ),
        "evaluation.attack": table(None, "what is measured; None: the attack trained with"),
        "evaluation.control": flag(False, "squash without a trigger, too"),
        "evaluation.floor": text(None, "a run or checkpoint never poisoned, or start: its start"),
        "evaluation.branches": flag(None, "swap towers with the floor's: which has the backdoor"),
        "evaluation.retrieval": table(None, "pictures and captions: docs/metrics.md"),
        "evaluation.repair": table(None, "a ViT by its parts, too: docs/defences.md"),
        "evaluation.metrics": texts(None, "metrics of one's own, by name: docs/extend.md"),
        "evaluation.projection": whole(0, "pictures that PCA and t-SNE show; 0: none", below=2**20),
        "evaluation.cache": number(20.0, "GB of image features kept in the cache folder; 0: none"),
        "evaluation.batch_size": whole(256, "pictures at once", 1, below=2**20),
        "evaluation.workers": whole(0, "processes that decode; 0: one thread", below=1025),
    },
)


def keys_of(table: str) -> dict[str, Key]:
    """The keys that are declared below a table; evaluation.attack has those of attack."""
    prefix = "attack." if table == "evaluation.attack" else f"{table}."
    return {name.removeprefix(prefix): KEYS[name] for name in KEYS if name.startswith(prefix)}
