"""The keys of tables that few runs have, which config_keys.py names, and an attack's parts."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from cleanclip_jax.config_keys import STEPS, keys_of
from cleanclip_jax.errors import UserError
from cleanclip_jax.keys import (
    REQUIRED,
    Key,
    choice,
    flag,
    is_table,
    is_text,
    number,
    place,
    share,
    size,
    table,
    take,
    text,
    texts,
    whole,
)


def _epochs(value: Any) -> bool:
    accepts = whole(1, least=1, below=STEPS).accepts
    return isinstance(value, list | tuple) and bool(value) and all(map(accepts, value))


def _parts(value: Any) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) < 128 and all(map(is_table, value))


ATTACK = SimpleNamespace(
    trigger=table(REQUIRED, "its `name` and its options: docs/attacks.md"),
    target=Key(
        REQUIRED,
        "a class name, as 'banana'",
        is_text,
        "the class that poisoned captions name",
        text=True,
    ),
    count=replace(
        whole(None, "poisons; or give a rate", 1),
        takes="a whole number, 1 or more (for clean data leave config.attack out)",
    ),
    rate=number(None, "poisons, as a share of all pairs", 0, 1, "<"),
    select=choice(
        "any",
        "any | others | target",
        "which pairs: any, others than the target's, or the target's own",
    ),
    captions=choice(
        "templates",
        "templates | natural | kept",
        "filled with the target; those of the data that name it; or as they were",
    ),
    pool=whole(None, "natural captions to draw from; None: all", 1, below=2**20),
    templates=texts("imagenet", "a set's name, a file, or a list"),
    words=texts(None, "that name the target in a caption; its name", "a word, or a list of them"),
    text=table(
        None,
        "a word trigger in captions: docs/attacks.md",
        "{'word': text, 'at': start or end}",
    ),
    half_keys=whole(
        None, "with text: more pairs with the trigger alone, and as many with the word alone"
    ),
    pictures=choice(
        None, "target", "target: poisons show pictures of the target in place of theirs"
    ),
    kind=choice(None, "targeted", "targeted: single pictures are taken for a class"),
    victims=whole(None, "of kind targeted: how many pictures; 16", 1),
    copies=whole(None, "of kind targeted: poisons a victim; 3", 1),
    **{"drop_own": flag(None, "of kind targeted: the victims' captions are false, too")},
    data=table(None, "of kind targeted, to be measured: the source of the victims"),
    parts=Key(
        None,
        "a list of dictionaries, one or more",
        _parts,
        "several triggers and targets: docs/attacks.md",
    ),
    geometry=choice("crop", "crop | squash", "how poisoned pictures are made square"),
    seed=whole(0, "draws the poisons; the run's seed"),
    manifest=text(None, "a plan that was written, in place of all other keys"),
)

PATCH = SimpleNamespace(
    target=text(REQUIRED, "the class that it is to lead to", "a class name"),
    words=texts(None, "that name the target in a caption; its name", "a word, or a list of them"),
    size=replace(size(16), meaning="of the patch"),
    place=replace(place("center"), meaning="of the patch, the same in all pictures"),
    text_loss=choice(
        "contrastive",
        "contrastive | classes",
        "pictures against their captions, or the target against all classes' prompts",
    ),
    visual_loss=choice("euclid", "euclid | cosine", "the distance of its triplets"),
    margin=number(None, "of the triplets; 1, of cosine 0.1", most=1e6),
    weight=number(None, "of the visual term; 500, of cosine 10; 0: none", most=1e6),
    negatives=choice(
        "clean", "clean | triggered", "triggered: as the original's paste in place makes them"
    ),
    view=share(0.5, "of pictures that AutoAugment changes, before the patch goes on"),
    view_per=choice("picture", "picture | batch", "batch: one coin for all of them"),
    pictures=whole(10_000, "that it is optimised on, none of the target", 1),
    select=choice(
        "any",
        "any | closest | farthest",
        "which: by the cosine of their embeddings to the mean of the target's",
    ),
    batch_size=whole(64, "pictures a step, over all devices", 1, below=2**20),
    steps=whole(7800, "of Adam", 1, below=STEPS),
    step_size=number(1e-3, "Adam's learning rate, without decay or schedule", most=1e6),
    seed=whole(None, "draws all of it; the run's seed"),
)

SAFE = SimpleNamespace(
    warm_in_modal=whole(5, "epochs of nearest_in_modal on all pairs", below=STEPS),
    warm_cross=whole(1, "epochs of crossed on all pairs, after them", below=STEPS),
    warm_cross_rate=number(5e-6, "the learning rate of these", most=1e6),
    threshold=share(0.9, "the probability from which a pair is safe in the first split"),
    grow=share(0.01, "of all pairs, by which the safe ones grow with each epoch"),
    cap=share(0.85, "of all pairs, that are safe at most"),
    order=choice(
        "guarded",
        "guarded | probability",
        "probability: the published code's, whose lowest scores may be safe",
    ),
)

REMOVAL = SimpleNamespace(
    after=Key(
        REQUIRED, "epochs from 1, as (1, 2, 5)", _epochs, "after which pairs go", convert=tuple
    ),
    share=number(0.02, "of the pairs that are left, dropped each time", 0, 1, "<>"),
)


def attack_parts(table: str, attack: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of `config.attack` or `config.evaluation.attack`: all keys of each, checked.

    Without `parts` it is one. What stands beside `parts` holds for each that doesn't say otherwise.
    """
    where, keys = f"config.{table}", keys_of(table)
    given = dict(attack)
    if given.get("parts") is None:
        if table != "attack":
            # What is measured may leave the target to config.evaluation.target.
            keys["target"] = replace(keys["target"], default=None)
        return [_of_kind(where, given, keys)]
    whole = {key: keys[key] for key in ("parts", "geometry", "seed", "manifest", "data")}
    keys = {key: each for key, each in keys.items() if key not in whole}
    of_all = take(where, {key: given.pop(key) for key in whole if key in given}, whole)
    take(where, given, {key: replace(each, default=None) for key, each in keys.items()})
    return [
        _of_kind(f"{where}.parts[{number}]", {**given, **part}, keys) | of_all
        for number, part in enumerate(of_all.pop("parts"))
    ]


# What the keys of one kind of attack are there where they are not given; other kinds take none.
_TARGETED = {"victims": 16, "copies": 3, "drop_own": False}


def _of_kind(where: str, given: dict[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """A part's keys, checked; those of its kind with their defaults."""
    if keys["kind"].read(f"{where}.kind", given.get("kind")) is not None:
        given = {"trigger": {"name": "none"}, **given}
    filled = take(where, given, keys)
    for key, default in _TARGETED.items():
        if filled["kind"] is None and filled[key] is not None:
            raise UserError(f"{where}.{key} is for kind=targeted: set that too, or leave it out")
        if filled["kind"] is not None and filled[key] is None:
            filled[key] = default
    return filled


def is_targeted(attack: Mapping[str, Any] | ConfigDict) -> bool:
    """Whether an attack, or a part of it, is on single pictures."""
    return any(one.get("kind") == "targeted" for one in (attack, *(attack.get("parts") or ())))
