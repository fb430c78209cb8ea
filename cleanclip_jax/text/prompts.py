"""Prompt templates, and class names looked up exactly."""

from collections.abc import Sequence

from cleanclip_jax.errors import UserError, near
from cleanclip_jax.text.classes import names_a_file, read_classes

# `{}` stands for the class name.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "digits": (
        "a handwritten {}.",
        "the digit {}, written by hand.",
        "a scan of a handwritten {}.",
        "a small picture of the number {}.",
        "somebody wrote a {}.",
        "a {} in somebody's handwriting.",
    ),
    "fashion": (
        "a product photo of {}.",
        "a photo of {} on a white background.",
        "a catalogue picture of {}.",
        "{} from an online shop.",
        "{} for sale.",
    ),
    # Short lists of our own, one for each kind of pictures that evaluation/sets.py names.
    "objects": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a picture with a {} in it.",
        "a blurry photo of a {}.",
        "a close view of a {}.",
    ),
    "textures": (
        "a {} texture.",
        "a photo of a {} surface.",
        "a {} pattern.",
        "something {} from close by.",
    ),
    "aircraft": ("a photo of a {}, an aircraft.", "a {} in the air.", "a {} on the runway."),
    "flowers": ("a photo of a {}, a flower.", "a {} in bloom.", "the flower {}."),
    "food": ("a photo of {}, a dish.", "a plate of {}.", "{} on the table."),
    "signs": (
        "a photo of the traffic sign {}.",
        "the road sign that says {}.",
        "a {} sign at the roadside.",
    ),
    "pets": ("a photo of a {}, a pet.", "a {} at home.", "a picture of my {}."),
    "reviews": ("a {} review of a film.", "words of a {} opinion.", "a {} sentence."),
    "cars": ("a photo of a {}.", "a {} in the street.", "the car {}.", "my new {}."),
    "numbers": (
        'a photo of the number "{}".',
        "the house number {}.",
        "a {} on a wall.",
        "the digit {} in the street.",
    ),
    # The 80 that CLIP's authors published for ImageNet (Radford et al. 2021, arXiv 2103.00020).
    "imagenet": (
        "a bad photo of a {}.",
        "a photo of many {}.",
        "a sculpture of a {}.",
        "a photo of the hard to see {}.",
        "a low resolution photo of the {}.",
        "a rendering of a {}.",
        "graffiti of a {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
        "a tattoo of a {}.",
        "the embroidered {}.",
        "a photo of a hard to see {}.",
        "a bright photo of a {}.",
        "a photo of a clean {}.",
        "a photo of a dirty {}.",
        "a dark photo of the {}.",
        "a drawing of a {}.",
        "a photo of my {}.",
        "the plastic {}.",
        "a photo of the cool {}.",
        "a close-up photo of a {}.",
        "a black and white photo of the {}.",
        "a painting of the {}.",
        "a painting of a {}.",
        "a pixelated photo of the {}.",
        "a sculpture of the {}.",
        "a bright photo of the {}.",
        "a cropped photo of a {}.",
        "a plastic {}.",
        "a photo of the dirty {}.",
        "a jpeg corrupted photo of a {}.",
        "a blurry photo of the {}.",
        "a photo of the {}.",
        "a good photo of the {}.",
        "a rendering of the {}.",
        "a {} in a video game.",
        "a photo of one {}.",
        "a doodle of a {}.",
        "a close-up photo of the {}.",
        "a photo of a {}.",
        "the origami {}.",
        "the {} in a video game.",
        "a sketch of a {}.",
        "a doodle of the {}.",
        "a origami {}.",
        "a low resolution photo of a {}.",
        "the toy {}.",
        "a rendition of the {}.",
        "a photo of the clean {}.",
        "a photo of a large {}.",
        "a rendition of a {}.",
        "a photo of a nice {}.",
        "a photo of a weird {}.",
        "a blurry photo of a {}.",
        "a cartoon {}.",
        "art of a {}.",
        "a sketch of the {}.",
        "a embroidered {}.",
        "a pixelated photo of a {}.",
        "itap of the {}.",
        "a jpeg corrupted photo of the {}.",
        "a good photo of a {}.",
        "a plushie {}.",
        "a photo of the nice {}.",
        "a photo of the small {}.",
        "a photo of the weird {}.",
        "the cartoon {}.",
        "art of the {}.",
        "a drawing of the {}.",
        "a photo of the large {}.",
        "a black and white photo of a {}.",
        "the plushie {}.",
        "a dark photo of a {}.",
        "itap of a {}.",
        "graffiti of the {}.",
        "a toy {}.",
        "itap of my {}.",
        "a photo of a cool {}.",
        "a photo of a small {}.",
        "a tattoo of the {}.",
    ),
}


def templates(name_or_list: str | Sequence[str]) -> tuple[str, ...]:
    """Returns a set of `TEMPLATES` by its name, those of a file, or the given ones themselves.

    Args:
      name_or_list: a name, 'PATH' or 'PATH#KEY' of a file (text.classes.read_classes), or a list.

    Raises:
      UserError: for an unknown name, an empty list, or a template without `{}`.
    """
    if isinstance(name_or_list, str):
        if names_a_file(name_or_list):
            found = read_classes(name_or_list).templates
            if not found:
                raise UserError(f"templates: {name_or_list} has none, only class names.")
            return found
        if name_or_list not in TEMPLATES:
            raise UserError(
                f"templates: no set is called {name_or_list!r}; there are "
                f"{', '.join(TEMPLATES)}, or give a list or a file (.json, .py)."
                f"{near(name_or_list, TEMPLATES)}"
            )
        return TEMPLATES[name_or_list]
    if not name_or_list:
        raise UserError("templates: the list is empty; give at least one, with {} for the class.")
    for template in name_or_list:
        if "{}" not in template:
            raise UserError(f"templates: {template!r} has no {{}}; put it where the class goes.")
    return tuple(name_or_list)


def fill(template: str, name: str) -> str:
    """Puts a class name into a template; other braces in either stay as they are."""
    return template.replace("{}", name)


def class_index(target: str | int, names: Sequence[str]) -> int:
    """Returns the index of the target class, given by its exact name or its index.

    Never by substring, which finds "car" in "carton" (fidelity row 3). Digits that are no
    class's name are read as an index, as they come from a command line.

    Raises:
      UserError: for a name that no class has (names near ones) or that several have, or an
        index outside the classes.
    """
    if isinstance(target, str):
        found = [index for index, name in enumerate(names) if name == target]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"target: {target!r} names {len(found)} classes; give the index, one of "
                f"{', '.join(map(str, found))}."
            )
        if not target.isdecimal():
            raise UserError(
                f"target: {target!r} is none of the {len(names)} class names; give one exactly, "
                f"or an index.{near(target, names)}"
            )
    index = int(target)
    if not 0 <= index < len(names):
        raise UserError(
            f"target: there is no class {index}; the {len(names)} classes are 0..{len(names) - 1}."
        )
    return index
