"""The labelled sets that a model is measured on: of a table by name, or as a config has them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from cleanclip_jax.config_keys import KEYS
from cleanclip_jax.data.sources import Source, open_source
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.keys import REQUIRED, flag, table, take, text
from cleanclip_jax.measure.ranks import check_labels
from cleanclip_jax.text.classes import has_entry, read_classes
from cleanclip_jax.text.prompts import class_index, templates

# What config.evaluation.data alone is called; its figures have no name before theirs.
MAIN = "data"
SET_KEYS = {
    "name": text(REQUIRED),
    "data": table(None),
    **{key: KEYS[f"evaluation.{key}"] for key in ("classes", "templates", "target")},
    "subset": flag(None),
}
WORDNET_ID = re.compile(r"n\d{8}")


class Known(NamedTuple):
    """A row of the table.

    Attributes:
      tfds: its name in TensorFlow Datasets; None: it comes from a folder.
      split: the one that is measured on.
      templates: a name of text/prompts.py.
      key: of its entry in a file of class names for several sets.
      subset: only the classes that occur in it are told apart.
    """

    tfds: str | None
    split: str
    templates: str
    key: str | None = None
    subset: bool = False


SETS: dict[str, Known] = {
    "imagenet": Known("imagenet2012", "validation", "imagenet", "imagenet1k"),
    "imagenet_v2": Known("imagenet_v2", "test", "imagenet", "imagenet1k"),
    "imagenet_a": Known("imagenet_a", "test", "imagenet", "imagenet1k", subset=True),
    "imagenet_r": Known("imagenet_r", "test", "imagenet", "imagenet1k", subset=True),
    "imagenet_sketch": Known("imagenet_sketch", "test", "imagenet", "imagenet1k"),
    "cifar10": Known("cifar10", "test", "objects", "cifar10"),
    "cifar100": Known("cifar100", "test", "objects", "cifar100"),
    "caltech101": Known("caltech101", "test", "objects"),
    "dtd": Known("dtd", "test", "textures"),
    "aircraft": Known(None, "test", "aircraft"),
    "flowers102": Known("oxford_flowers102", "test", "flowers"),
    "food101": Known("food101", "validation", "food"),
    "gtsrb": Known(None, "test", "signs"),
    "pets": Known("oxford_iiit_pet", "test", "pets"),
    "sst2": Known(None, "test", "reviews"),
    "cars": Known("cars196", "test", "cars"),
    "stl10": Known("stl10", "test", "objects"),
    "svhn": Known("svhn_cropped", "test", "numbers"),
}


@dataclass(frozen=True)
class LabelledSet:
    """A set as it is measured.

    Attributes:
      prefix: before its figures' names, "" for the main set's.
      classes: the names that are told apart.
      labels: index into `classes` of every record of the source, -1 where there is none.
      target: the attack's class, None without one; `note` says why there is none.
    """

    name: str
    prefix: str
    source: Source
    classes: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    templates: tuple[str, ...]
    target: int | None
    note: str


def open_sets(asked: ConfigDict) -> list[LabelledSet]:
    """The sets of a `config.evaluation`: its `data` first, then its `sets`; [] without either.

    A target that `data` lacks is an error; one that another set lacks is noted there.

    Raises:
      UserError: a set that is not known or can't be opened, no classes, or no such target.
    """
    entries = [] if not asked.data else [{"name": MAIN, "data": asked.data.to_dict()}]
    further = asked.sets or ()
    entries += [_entry(entry) for entry in ([further] if isinstance(further, str) else further)]
    if not entries:
        return []
    names = [entry["name"] for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"config.evaluation.sets: two sets are called {name!r}")
    target = asked_target(asked)
    found: list[LabelledSet] = []
    for entry in entries:
        found.append(_open(asked, entry, target, found[0] if found else None))
    return found


def find_target(asked: ConfigDict) -> tuple[Source, tuple[str, ...], int | None]:
    """Returns the first set of a `config.evaluation`, its class names and the target's index.

    Raises:
      UserError: as `open_sets`, or there is no set.
    """
    sets = open_sets(asked)
    if not sets:
        raise UserError("config.evaluation.data is not set: name a labelled source")
    return sets[0].source, sets[0].classes, sets[0].target


def asked_target(asked: ConfigDict) -> str | int | None:
    """The target that a `config.evaluation` names: its own, else its attack's."""
    if asked.target is not None or asked.attack is None:
        return asked.target
    target = asked.attack.get("target")
    if target is None:
        raise UserError("config.evaluation.attack has no target, nor has config.evaluation")
    return target


def _entry(given: Any) -> dict[str, Any]:
    """One of config.evaluation.sets, a name or a dictionary, as a dictionary with its name."""
    where = "config.evaluation.sets"
    entry = take(where, {"name": given} if isinstance(given, str) else dict(given), SET_KEYS)
    entry = {key: value for key, value in entry.items() if value is not None}
    name = entry["name"]
    if "data" in entry:
        return entry
    if name not in SETS:
        raise unknown(f"{where} (a set without data)", name, SETS)
    known = SETS[name]
    if known.tfds is None:
        raise UserError(
            f"{where}: {name} is not in TensorFlow Datasets; give {{'name': '{name}', 'data': "
            "{'kind': 'folder', 'path': ...}}, a folder of pictures in a folder for each class"
        )
    return entry | {
        "data": {"kind": "tfds", "name": known.tfds, "split": known.split, "class_name": "label"}
    }


def _open(
    asked: ConfigDict, entry: Mapping[str, Any], target: str | int | None, first: LabelledSet | None
) -> LabelledSet:
    name = entry["name"]
    known = SETS.get(name)
    where = f"config.evaluation.{MAIN if name == MAIN else 'sets'}"
    source = open_source(dict(entry["data"]))
    classes = _class_names(asked, entry, known, source, where)
    labels = source.labels()
    check_labels(labels, len(classes))
    if entry.get("subset", known is not None and known.subset):
        present = np.unique(labels[labels >= 0])
        renumbered = np.full(len(classes) + 1, -1)  # the last is the label -1's
        renumbered[present] = np.arange(len(present))
        classes, labels = tuple(classes[i] for i in present), renumbered[labels]
    prompts = entry.get("templates") or (
        known.templates if known is not None else asked.templates or "imagenet"
    )
    index, note = None, ""
    if entry.get("target") is not None:
        index = class_index(entry["target"], classes)
    elif target is not None:
        index, note = _target_in(target, name, classes, first)
    return LabelledSet(
        name=name,
        prefix="" if first is None else f"{name}.",
        source=source,
        classes=classes,
        labels=labels,
        templates=templates(prompts),
        target=index,
        note=note,
    )


def _class_names(
    asked: ConfigDict, entry: Mapping[str, Any], known: Known | None, source: Source, where: str
) -> tuple[str, ...]:
    """A set's class names: from the file that is named for it, else its source's own."""
    own = source.class_names
    ids = own is not None and all(WORDNET_ID.fullmatch(name) for name in own)
    key = known.key if known else "imagenet1k" if ids else None
    spec = entry.get("classes") or _shared(asked.classes, entry["name"], key, bool(own) and not ids)
    if spec:
        named = read_classes(spec, key).names
        if own is not None and set(own) == set(named):
            return own
        if own is not None and len(own) != len(named):
            raise UserError(
                f"{where}: {entry['name']} has {len(own)} classes, and {spec} names {len(named)}"
            )
        if own is not None and set(own) & set(named):
            # By position, labels would get other classes' names.
            raise UserError(
                f"{where}: some classes of {entry['name']} are named as in {spec} and some "
                f"are not, as {sorted(set(own) - set(named))[0]!r}: make the names agree"
            )
        return named
    if not own:
        raise UserError(
            f"{where} has no classes: name its column with {where}.class_name, or a file of "
            "names with config.evaluation.classes"
        )
    if ids:
        raise UserError(
            f"{where}: the classes of {entry['name']} are WordNet ids ({own[0]}, …): name a file "
            "of the words to put into prompts with config.evaluation.classes"
        )
    return tuple(name.replace("_", " ") for name in own) if known else own


def _shared(spec: str | None, name: str, key: str | None, worded: bool) -> str | None:
    """The file for all sets, where it serves this one.

    That is the set's own entry in it; for a set without words of its own whatever it holds; and
    for the main set the entry that is named.
    """
    if spec and key and has_entry(spec, key):
        return f"{spec.partition('#')[0]}#{key}"
    return spec if spec and (not worded or (name == MAIN and "#" in spec)) else None


def _target_in(
    target: str | int, name: str, classes: tuple[str, ...], first: LabelledSet | None
) -> tuple[int | None, str]:
    """The target's index in the set called `name`, or None and why."""
    wanted = str(target)
    if first is None and (name == MAIN or wanted.isdecimal()):
        return class_index(target, classes), ""
    if first is not None:
        if first.classes == classes:
            return first.target, first.note
        if first.target is not None:
            # An index means the first set's class: in another set it would be any other.
            wanted = first.classes[first.target]
    at = [index for index, other in enumerate(classes) if other == wanted]
    if len(at) == 1:
        return at[0], ""
    if at:
        return None, f"{wanted!r} names {len(at)} of the {len(classes)} classes: give the index"
    return None, f"{wanted!r} is not among the {len(classes)} classes"
