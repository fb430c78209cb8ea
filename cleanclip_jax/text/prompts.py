"""Prompt templates, and class names looked up exactly."""

import json
from collections.abc import Sequence
from importlib.resources import files

from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.registry import Registry
from cleanclip_jax.text.classes import is_class_file, read_classes

# Sets of templates; `{}` stands for the class name. "imagenet" has the 80 that CLIP's authors
# published (Radford et al. 2021, arXiv 2103.00020); the others are short lists of this project's,
# one for each kind of pictures that measure/sets.py names.
_ROWS = json.loads(files(__package__ or "").joinpath("templates.json").read_text(encoding="utf-8"))
TEMPLATES: Registry[tuple[str, ...]] = Registry(
    "templates (a set's name, a list, or a .json or .py file)",
    {name: tuple(rows) for name, rows in _ROWS.items()},
)


def prompts(name: str, *given: str) -> None:
    """Adds a set of prompts that is yours, each with `{}` where the class name goes."""
    TEMPLATES.add(name, templates(given))


def templates(name_or_list: str | Sequence[str]) -> tuple[str, ...]:
    """Returns a set of `TEMPLATES` by its name, those of a file, or the given ones themselves.

    Args:
      name_or_list: a name, 'PATH' or 'PATH#KEY' of a file (text.classes.read_classes), or a list.
    """
    rows = name_or_list
    if isinstance(rows, str):
        if is_class_file(rows):
            rows = read_classes(rows).templates
            if not rows:
                raise UserError(f"templates: {name_or_list} has none, only class names.")
        else:
            rows = TEMPLATES.find(rows)
    if not rows:
        raise UserError("templates: the list is empty; give at least one, with {} for the class.")
    for template in rows:
        if "{}" not in template:
            raise UserError(f"templates: {template!r} has no {{}}; put it where the class goes.")
    return tuple(rows)


def fill(template: str, name: str) -> str:
    """Puts a class name into a template; other braces in either stay as they are."""
    return template.replace("{}", name)


def class_index(target: str | int, names: Sequence[str]) -> int:
    """Returns the index of the target class, given by its exact name or its index.

    Never by substring, which takes "car" for "carton" (exact target, docs/fidelity.md). Digits
    that are no class's name are read as an index, as they come from a command line.
    """
    if isinstance(target, str):
        indices = [index for index, name in enumerate(names) if name == target]
        if len(indices) == 1:
            return indices[0]
        if indices:
            raise UserError(
                f"target: {target!r} names {len(indices)} classes; give the index, one of "
                f"{', '.join(map(str, indices))}."
            )
        if not target.isdecimal():
            raise unknown("target (a class name, or an index)", target, names)
    index = int(target)
    if not 0 <= index < len(names):
        raise UserError(
            f"target: there is no class {index}; the {len(names)} classes are 0..{len(names) - 1}."
        )
    return index
