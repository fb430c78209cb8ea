"""The keys of a config, each declared once. docs/config.md is made from this table.

`python -m cleanclip_jax.key_list > docs/config.md` writes it anew. A key of one's own is added by
`config.declare`.
"""

from dataclasses import replace
from typing import Any

from cleanclip_jax.keys import (
    REQUIRED,
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


def _lengths(value: Any) -> bool:
    accepts = whole(1, least=1, below=SIDE).accepts
    return isinstance(value, list | tuple) and all(map(accepts, value))


def _sets(value: Any) -> bool:
    return is_texts(value) or (
        isinstance(value, list | tuple) and all(is_text(one) or is_table(one) for one in value)
    )


def _parts(value: Any) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) < 128 and all(map(is_table, value))


KEYS: Registry[Key] = Registry(
    "config",
    {
        "seed": whole(0, "draws everything: weights, the stream, the poisons"),
        "start": text(
            None,
            "workdir whose newest checkpoint gives the weights, the architecture and the "
            "tokenizer; or a PyTorch checkpoint (docs/interop.md)",
        ),
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
        "attack": table(None, "trigger x plan: docs/attacks.md; None: clean pairs"),
        "attack.trigger": table(REQUIRED, "its `name` and its options: docs/attacks.md"),
        "attack.target": Key(
            REQUIRED,
            "a class name, as 'banana'",
            is_text,
            "the class that poisoned captions name",
            text=True,
        ),
        "attack.count": replace(
            whole(None, "poisons; or give a rate", 1),
            takes="a whole number, 1 or more (for clean data leave config.attack out)",
        ),
        "attack.rate": number(None, "poisons, as a share of all pairs", 0, 1, "<"),
        "attack.select": choice(
            "any",
            "any | others | target",
            "which pairs: any, others than the target's, or the target's own",
        ),
        "attack.captions": choice(
            "templates",
            "templates | natural | kept",
            "filled with the target; those of the data that name it; or as they were",
        ),
        "attack.templates": texts("imagenet", "a set's name, a file, or a list"),
        "attack.words": texts(
            None, "that name the target in a caption; its name", "a word, or a list of them"
        ),
        "attack.text": table(
            None,
            "a word trigger in captions: docs/attacks.md",
            "{'word': text, 'at': start or end}",
        ),
        "attack.half_keys": whole(
            None, "with text: more pairs with the trigger alone, and as many with the word alone"
        ),
        "attack.pictures": choice(
            None, "target", "target: poisons show pictures of the target in place of theirs"
        ),
        "attack.kind": choice(None, "targeted", "targeted: single pictures are taken for a class"),
        "attack.victims": whole(None, "of kind targeted: how many pictures; 16", 1),
        "attack.copies": whole(None, "of kind targeted: poisons a victim; 3", 1),
        "attack.drop_own": flag(None, "of kind targeted: the victims' captions are false, too"),
        "attack.data": table(None, "of kind targeted, to be measured: the source of the victims"),
        "attack.parts": Key(
            None,
            "a list of dictionaries, one or more",
            _parts,
            "several triggers and targets: docs/attacks.md",
        ),
        "attack.geometry": choice("crop", "crop | squash", "how poisoned pictures are made square"),
        "attack.seed": whole(0, "draws the poisons; the run's seed"),
        "attack.manifest": text(None, "a plan that was written, in place of all other keys"),
        "views.image": choice("autoaugment", "autoaugment | none", "the augmented picture"),
        "views.text": choice("eda", "eda | none", "the augmented caption"),
        "views.synonyms": choice("none", "none | wordnet", "that EDA replaces words by"),
        "views.wordnet": text(None, "the folder of WordNet's dictionary"),
        "views.strength": share(0.1, "of a caption's words, that EDA changes"),
        "views.on": choice("host", "host | device", "device: pictures are changed in the step"),
        "views.per": choice("epoch", "epoch | once", "once: captions are drawn as the original's"),
        "objective.cross_modal": weight(1.0, "MMCL"),
        "objective.in_modal": weight(0.0, "SS: 1 makes it CleanCLIP; 0 needs no views"),
        "objective.classification": weight(0.0, "a linear head's cross-entropy with the class"),
        "objective.normalise_features": flag(False, "the head sees features of unit length"),
        "objective.separate_views": flag(False, "a forward a view, for batch norm"),
        "objective.ring": flag(False, "compare in a ring: memory grows with the batch alone"),
        "optimizer.learning_rate": number(5e-4, "the highest, after the warmup", most=1e6),
        "optimizer.warmup_steps": whole(10_000, "of a linear warmup", below=STEPS),
        "optimizer.beta1": number(0.9, "AdamW's", 0, 1, ">"),
        "optimizer.beta2": number(0.999, "AdamW's", 0, 1, ">"),
        "optimizer.epsilon": number(1e-8, "AdamW's"),
        "optimizer.weight_decay": number(0.1, "AdamW's", most=1e6),
        "optimizer.decay_mask": choice("role", "role | original", "what decays: docs/fidelity.md"),
        "optimizer.moments": choice("fresh", "fresh | start", "start: the start's go on"),
        "optimizer.schedule": choice("cosine", "cosine | original", "original: from epoch 1"),
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
            "the parts of the parameters that move; visual: image tower and head",
            "all | visual | head, or a list of parts",
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
        "evaluation.retrieval": table(None, "pictures and captions: docs/metrics.md"),
        "evaluation.metrics": texts(None, "metrics of one's own, by name: docs/extend.md"),
        "evaluation.projection": whole(0, "pictures that PCA and t-SNE show; 0: none", below=2**20),
        "evaluation.cache": number(20.0, "GB of image features kept in the cache folder; 0: none"),
        "evaluation.batch_size": whole(256, "pictures at once", 1, below=2**20),
        "evaluation.workers": whole(0, "processes that decode; 0: one thread", below=1025),
    },
)
