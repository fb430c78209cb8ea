"""Configs: their defaults, key by key, how a file is loaded and how a key is overridden."""

import ast
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.errors import UserError, near

# Below these keys a room of its own checks what it is given (data.sources, attacks).
OPEN = ("data.train", "evaluation.data", "evaluation.retrieval", "attack", "evaluation.attack")


def defaults() -> ConfigDict:
    """Returns every key with its default. None means: as the start run's, or not used."""
    config = ConfigDict()
    config.seed = 0
    # A workdir whose newest checkpoint gives the weights, the architecture and the tokenizer; or a
    # PyTorch checkpoint (docs/interop.md).
    config.start = None

    config.model = ConfigDict()
    config.model.variant = None  # a name of models/variants.py
    config.model.activation = None  # quick_gelu | gelu
    config.model.image_size = None  # pixels a side, in place of the variant's
    config.model.dtype = "float32"  # compute: float32 | bfloat16 | float64
    config.model.param_dtype = "float32"
    config.model.bn_groups = 1  # 1: batch statistics over the global batch; k: over k groups
    config.model.bn_frozen = False  # running statistics in training too
    config.model.attention = "xla"  # cudnn: its fused kernels, on NVIDIA GPUs in bfloat16
    config.model.scan = False  # transformer blocks as one compiled loop
    config.model.remat = False  # recompute activations instead of keeping them

    config.text = ConfigDict()
    config.text.tokenizer = None  # clip: the published vocabulary | trained: on the captions
    config.text.merges = None  # CLIP's merges file; else the cache; else downloaded
    config.text.vocab_size = 512  # of a trained vocabulary
    config.text.context_length = None  # tokens a caption, in place of the variant's
    config.text.keep_end = True  # False: a cut caption loses its end, as in the original

    config.data = ConfigDict()
    config.data.train = ConfigDict()  # a source: data/sources.py
    config.data.workers = 0  # processes that decode; 0: a thread of this one
    config.data.decode = "exact"  # exact: pixels as the original's | fast: nearly, at half the cost
    config.data.resident = False  # all pictures in device memory, where there is room for them
    config.data.resident_share = 0.5  # of a device's free memory, that they may take
    config.data.timeout = 120.0  # seconds without a batch that end the run
    config.data.max_bad_share = 0.01  # of unreadable records, before the run stops

    config.attack = None  # trigger x plan: attacks/plan.py; None: clean pairs

    config.views = ConfigDict()
    config.views.image = "autoaugment"  # autoaugment | none
    config.views.text = "eda"  # eda | none
    config.views.synonyms = "none"  # wordnet | none: EDA without synonym replacement
    config.views.wordnet = None  # the folder of WordNet's dictionary
    config.views.strength = 0.1  # share of a caption's words that EDA changes
    config.views.on = "host"  # device: triggers and augmented pictures are made in the step
    config.views.per = "epoch"  # epoch: drawn anew | once: as the original's captions

    config.objective = ConfigDict()
    config.objective.cross_modal = 1.0  # MMCL
    config.objective.in_modal = 0.0  # SS: 1 makes it CleanCLIP; 0 needs no views
    config.objective.classification = 0.0  # a linear head's cross-entropy with the class
    config.objective.normalise_features = False  # the head sees features of unit length
    config.objective.separate_views = False  # a forward a view, for batch norm
    config.objective.ring = False  # compare in a ring: memory grows with the batch, not its square

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 10_000
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay_mask = "role"  # original: also decays downsampling norms' scales
    config.optimizer.schedule = "cosine"  # original: counts from epoch 1

    config.train = ConfigDict()
    config.train.batch_size = 128  # pairs, over all devices
    config.train.chunks = 1  # encode the batch in so many parts: the memory of one, the same result
    config.train.text_lengths = (16, 32, 48)  # captions are cut to what a batch's longest needs
    config.train.epochs = 64
    config.train.steps = None  # in place of epochs
    config.train.trainable = "all"  # visual: image tower and head | head
    config.train.log_every = 10  # steps between lines of metrics.jsonl
    config.train.checkpoint_every = 1000  # steps
    config.train.keep = 2  # newest checkpoints
    config.train.wandb = None  # a project of Weights & Biases that the metrics go to, too

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that share the batch; -1: all
    config.mesh.fsdp = 1  # and that share it and the parameters, a part each; data x fsdp devices
    config.mesh.heartbeat = 60  # seconds without a sign of life that give up a process

    config.evaluation = ConfigDict()
    config.evaluation.data = None  # a labelled source
    config.evaluation.sets = None  # more: a list of names of evaluation/sets.py, or dictionaries
    config.evaluation.classes = None  # class names: a .json or .py file, or FILE#KEY
    config.evaluation.templates = None  # prompts: a name of text/prompts.py, or a list; imagenet
    config.evaluation.target = None  # class name or index; None: the attack's
    config.evaluation.attack = None  # trigger measured; None: the attack that was trained with
    config.evaluation.control = False  # squash without a trigger; always where the attack squashes
    config.evaluation.floor = None  # a run or checkpoint never poisoned, or start: this run's
    config.evaluation.retrieval = None  # pictures and captions: evaluation/captioned.py
    config.evaluation.projection = 0  # pictures that PCA and t-SNE show; 0: none
    config.evaluation.cache = 20.0  # GB of image features kept in the cache folder; 0: none
    config.evaluation.batch_size = 256
    config.evaluation.workers = 0
    return config


def supervise(config: ConfigDict, probe: bool) -> None:
    """Makes a config one of supervised training: the image tower's, or with `probe` a head's alone.

    A linear head on un-normalised features, cross-entropy with the class, weight decay 0.01, no
    augmentation (arXiv 2303.03323, section 5).
    """
    config.objective.cross_modal = 0.0
    config.objective.in_modal = 0.0
    config.objective.classification = 1.0
    config.train.trainable = "head" if probe else "visual"
    config.optimizer.weight_decay = 0.01
    if probe:
        config.optimizer.learning_rate = 5e-3
        config.optimizer.warmup_steps = 0


def load(spec: str) -> ConfigDict:
    """Loads `FILE.py[:arg]` and returns its `get_config(arg)`.

    A file that isn't there is looked for among the configs that come along, in the wheel or the
    checkout, so `configs/demo.py` works from any folder.

    Raises:
      UserError: no such file, no `get_config` in it, or an argument that it refuses.
    """
    name, _, arg = spec.partition(":")
    package = Path(__file__).parent
    folder = package if (package / "configs").is_dir() else package.parent
    shipped = folder / "configs" / Path(name).name
    places = (Path(name), shipped) if Path(name).parent.name in ("", "configs") else (Path(name),)
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        known = sorted(file.name for file in shipped.parent.glob("*.py"))
        hint = near(Path(name).name, known) or f" Those that come along: {', '.join(known)}."
        raise UserError(f"no config file {name!r}.{hint}")
    module_spec = importlib.util.spec_from_file_location("cleanclip_config", path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(arg)")
    return module.get_config(arg or None)


def choose(arg: str | None, choices: Iterable[str], file: str) -> str:
    """Returns `arg`, or the first choice for None. For the `:arg` of a config file.

    Raises:
      UserError: not one of the choices.
    """
    known = list(choices)
    if arg is None:
        return known[0]
    if arg not in known:
        hint = near(arg, known) or f" Known: {', '.join(known)}."
        raise UserError(f"{file} has no variant {arg!r}.{hint}")
    return arg


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets `config.key` to the Python literal in `text`, or to the text itself.

    Raises:
      UserError: unknown key (near ones are named), or a value of another type.
    """
    node: Any = config
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if part not in node:
            raise _unknown(config, key)
        node = node[part]
        if not isinstance(node, ConfigDict):
            where = ".".join(parents[: depth + 1])
            raise UserError(f"config.{where} is {node!r}: it has no key {last!r} to set")
    is_open = any(key.startswith(f"{place}.") for place in OPEN)
    if last not in node and not is_open:
        raise _unknown(config, key)
    # What has no default has no type of its own here: a target is a name or an index.
    free = is_open or flatten(defaults()).get(key, key) is None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if last == "target" and value is not None:
        value = text  # a class may be called "7"
    if value is None and not free:
        raise UserError(f"config.{key} can't be None")
    try:
        with node.unlocked(), node.ignore_type() if free else node.unlocked():
            node[last] = ConfigDict(value) if isinstance(value, dict) else value
    except TypeError:
        kind = type(node[last]).__name__
        raise UserError(f"config.{key} takes a value of type {kind}, not {text!r}") from None


def _unknown(config: ConfigDict, key: str) -> UserError:
    keys = list(flatten(config))
    # A right name in the wrong place is as common a slip as a wrong name.
    lasts = {known.rsplit(".", 1)[-1]: known for known in keys}
    found = near(key, keys) or near(lasts.get(key.rsplit(".", 1)[-1], ""), keys)
    return UserError(f"unknown config key config.{key}.{found or ' The README lists the keys.'}")


def _leaves(node: ConfigDict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns {'a.b': value} of a nested config."""
    return dict(_leaves(config))


def to_json(config: ConfigDict) -> str:
    """A config as indented JSON, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(path: Path) -> ConfigDict:
    """Reads a config that `to_json` wrote, over today's defaults.

    Raises:
      UserError: the file is missing or isn't such JSON.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no workdir of a run: it has no {path.name}") from None
    except ValueError as error:
        raise UserError(f"{path} is not readable as JSON: {error}") from None
    config = defaults()
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(config.get(key), ConfigDict):
            with config[key].unlocked(), config[key].ignore_type():
                config[key].update(ConfigDict(value))
        else:
            with config.unlocked(), config.ignore_type():
                config[key] = ConfigDict(value) if isinstance(value, dict) else value
    return config
