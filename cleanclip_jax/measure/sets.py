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
    """A row of the table."""

    tfds: str | None  # its name in TensorFlow Datasets; None: it comes from a folder
    split: str  # the one that is measured on
    templates: str  # a name of text/prompts.py
    key: str | None = None  # of its entry in a file of class names for several sets
    subset: bool = False  # only the classes that occur in it are distinguished


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
    """A set as it is measured."""

    name: str
    prefix: str  # before its figures' names, "" for the main set's
    source: Source
    classes: tuple[str, ...]  # the names that are distinguished
    labels: Int64[np.ndarray, " n"]  # index into `classes` of every record, -1 of none
    templates: tuple[str, ...]
    target: int | None  # the attack's class, None without one
    note: str  # why there is none

    @property
    def indices(self) -> Int64[np.ndarray, " m"]:
        """The records that have a class."""
        return np.flatnonzero(self.labels >= 0)


def open_sets(settings: ConfigDict) -> list[LabelledSet]:
    """The sets of a `config.evaluation`: its `data` first, then its `sets`; [] without either.

    A target that `data` lacks is an error; one that another set lacks is noted there.
    """
    entries = [] if not settings.data else [{"name": MAIN, "data": settings.data.to_dict()}]
    further = settings.sets or ()
    entries += [_entry(entry) for entry in ([further] if isinstance(further, str) else further)]
    target, sets = target_of(settings) if entries else None, []
    for entry in entries:
        if entry["name"] in (each.name for each in sets):
            raise UserError(f"config.evaluation.sets: two sets are called {entry['name']!r}")
        sets.append(_open(settings, entry, target, sets[0] if sets else None))
    return sets


def attacked_set(settings: ConfigDict) -> LabelledSet | None:
    """The first set of a `config.evaluation`, if it has the target of an attack."""
    return attacked(settings, open_sets(settings))


def attacked(settings: ConfigDict, sets: list[LabelledSet]) -> LabelledSet | None:
    """The first of the sets that `config.evaluation` opened, if it has the target of an attack."""
    first = next(iter(sets), None)
    return None if first is None or first.target is None or settings.attack is None else first


def target_of(settings: ConfigDict) -> str | int | None:
    """The target that a `config.evaluation` names, else its attack's, of several the first's.

    None where single pictures are attacked, each for a target of its own.
    """
    attack = settings.attack
    several = None if attack is None else attack.get("parts")
    if settings.target is not None and several is None:
        return settings.target
    if settings.target is not None:
        raise UserError("config.evaluation.target: each of config.evaluation.attack.parts has one")
    if attack is None:
        return None
    wide = [one for one in several or [attack] if one.get("kind") != "targeted"]
    target = wide[0].get("target", attack.get("target")) if wide else None
    if target is None and wide:
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
    settings: ConfigDict,
    entry: Mapping[str, Any],
    target: str | int | None,
    first: LabelledSet | None,
) -> LabelledSet:
    name, known = entry["name"], SETS.get(entry["name"])
    source = open_source(dict(entry["data"]))
    classes = _class_names(settings, entry, known, source)
    labels = source.labels()
    wrong = np.flatnonzero(labels >= len(classes))
    if len(wrong):
        raise UserError(
            f"record {wrong[0]} has the label {labels[wrong[0]]}, but the {len(classes)} classes "
            f"are 0..{len(classes) - 1}: name the classes that belong to the set"
        )
    if entry.get("subset", known is not None and known.subset):
        present = np.unique(labels[labels >= 0])
        renumbered = np.full(len(classes) + 1, -1)  # the last is the label -1's
        renumbered[present] = np.arange(len(present))
        classes, labels = tuple(classes[i] for i in present), renumbered[labels]
    prompts = known.templates if known is not None else settings.templates or "imagenet"
    prompts, index, note = templates(entry.get("templates") or prompts), None, ""
    if entry.get("target") is not None:
        index = class_index(entry["target"], classes)
    elif target is not None:
        index, note = _target_in(target, name, classes, first)
    prefix = "" if first is None else f"{name}."
    return LabelledSet(name, prefix, source, classes, labels, prompts, index, note)


def _class_names(
    settings: ConfigDict, entry: Mapping[str, Any], known: Known | None, source: Source
) -> tuple[str, ...]:
    """A set's class names, of a file or of its source.

    A file's names stand for the source's by position, unless both name the same classes: then the
    source's order holds.
    """
    name, names = entry["name"], source.class_names
    where = f"config.evaluation.{MAIN if name == MAIN else 'sets'}"
    ids = names is not None and all(WORDNET_ID.fullmatch(each) for each in names)
    key = known.key if known else "imagenet1k" if ids else None
    file = entry.get("classes") or _shared_file(
        settings.classes, name, key, bool(names) and not ids
    )
    if file:
        read = read_classes(file, key).names
        if names is not None and set(names) == set(read):
            return names
        if names is not None and len(names) != len(read):
            count = f"{len(names)} classes, and {file} names {len(read)}"
            raise UserError(f"{where}: {name} has {count}")
        if set(names or ()) & set(read):
            # By position, labels would get other classes' names.
            raise UserError(
                f"{where}: some classes of {name} are named as in {file} and some are not, as "
                f"{sorted(set(names or ()) - set(read))[0]!r}: make the names agree"
            )
        return read
    if not names:
        raise UserError(
            f"{where} has no classes: name its column with {where}.class_name, or a file of "
            "names with config.evaluation.classes"
        )
    if ids:
        raise UserError(
            f"{where}: the classes of {name} are WordNet ids ({names[0]}, …): name a file "
            "of the words to put into prompts with config.evaluation.classes"
        )
    return tuple(each.replace("_", " ") for each in names) if known else names


def _shared_file(file: str | None, name: str, key: str | None, words: bool) -> str | None:
    """What `config.evaluation.classes` is to one set, by the first rule that holds; else None.

    1. The file has an entry under the set's key: that entry.
    2. The source gives no words (`words`): whatever the file holds.
    3. It is the main set, and the file is given with an entry (FILE#ENTRY): that entry.
    """
    if not file:
        return None
    if key and has_entry(file, key):
        return f"{file.partition('#')[0]}#{key}"
    return file if not words or (name == MAIN and "#" in file) else None


def _target_in(
    target: str | int, name: str, classes: tuple[str, ...], first: LabelledSet | None
) -> tuple[int | None, str]:
    """The target's index in the set called `name`, or None and why."""
    wanted = str(target)
    if first is None and (name == MAIN or wanted.isdecimal()):
        return class_index(target, classes), ""
    if first is not None and first.classes == classes:
        return first.target, first.note
    if first is not None and first.target is not None:
        # An index means the first set's class: in another set it would be any other.
        wanted = first.classes[first.target]
    if (count := classes.count(wanted)) == 1:
        return classes.index(wanted), ""
    if count:
        return None, f"{wanted!r} names {count} of the {len(classes)} classes: give the index"
    return None, f"{wanted!r} is not among the {len(classes)} classes"
