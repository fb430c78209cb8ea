"""Class names and prompt templates read from a file: JSON, or the original's `classes.py`.

A Python file is parsed and never run (fidelity row 18): names are taken from its lists of
strings, templates from strings and from functions like `lambda c: f"a photo of a {c}."`.
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError, near

ENDINGS = (".json", ".py")


@dataclass(frozen=True)
class ClassFile:
    """What a file holds; templates have `{}` where the class name goes, () if it has none."""

    names: tuple[str, ...]
    templates: tuple[str, ...]


def names_a_file(spec: str) -> bool:
    """Whether a text is a file of classes: 'PATH.json', 'PATH.py', with or without '#KEY'."""
    return spec.partition("#")[0].endswith(ENDINGS)


def read_classes(spec: str, default_key: str | None = None) -> ClassFile:
    """Reads 'PATH' or 'PATH#KEY'.

    Args:
      spec: JSON that is a list of names, or an object of `classes` and, if it likes, `templates`,
        or of several such under their keys; or a Python file with the same in a dictionary, or
        in the variables `classes` and `templates`.
      default_key: which of several, where the spec does not say.

    Raises:
      UserError: no such file or key, or no list of names in it.
    """
    path, key = Path(spec.partition("#")[0]), spec.partition("#")[2]
    found = _parsed(spec)
    if isinstance(found, Mapping) and not _is_entry(found):
        if not key and default_key in found:
            key = default_key or ""
        if not key and len(found) == 1:
            key = next(iter(found))
        if key not in found:
            raise UserError(
                f"classes: {path} holds {', '.join(found) or 'nothing'}"
                + (f", not {key!r}.{near(key, found)}" if key else f"; name one: {path}#KEY")
            )
        found = found[key]
    names, templates = (
        (found["classes"], found.get("templates") or ())
        if isinstance(found, Mapping) and _is_entry(found)
        else (found, ())
    )
    for what, words in (("class names", names), ("templates", templates)):
        if not _texts(words) or (not words and what == "class names"):
            raise UserError(f"classes: {path} has no list of {what}, each of them text")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"classes: {path}: the template {template!r} has no {{}} for the class")
    return ClassFile(tuple(names), tuple(templates))


def has_entry(spec: str, key: str) -> bool:
    """Whether the file of 'PATH' or 'PATH#KEY' holds several sets, and one under `key`.

    Raises:
      UserError: as read_classes.
    """
    found = _parsed(spec)
    return isinstance(found, Mapping) and not _is_entry(found) and key in found


def _parsed(spec: str) -> Any:
    name = spec.partition("#")[0]
    path = Path(name).expanduser()
    if not name.endswith(ENDINGS):
        raise UserError(f"classes: {spec!r} is no file that ends with {' or '.join(ENDINGS)}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"classes: {path} can't be read: {reason}") from None
    return _from_json(path, text) if name.endswith(".json") else _from_python(path, text)


def _is_entry(found: Mapping) -> bool:
    return "classes" in found


def _texts(words: Any) -> bool:
    return (
        isinstance(words, Sequence)
        and not isinstance(words, str)
        and all(isinstance(word, str) for word in words)
    )


def _from_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"classes: {path} is not readable as JSON: {error}") from None


def _from_python(path: Path, text: str) -> dict[str, Any]:
    """The values of a Python file's dictionary, or of its variables that are of interest."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise UserError(f"classes: {path} line {line} is not readable as Python") from None
    nodes: dict[str, ast.expr] = {}
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                nodes[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                nodes[name] = value
    # The original's file is one dictionary, bare or with a name.
    bare = [statement.value for statement in body if isinstance(statement, ast.Expr)]
    for node in (*bare, *nodes.values()):
        if isinstance(node, ast.Dict):
            keys = [getattr(key, "value", None) for key in node.keys]
            if "classes" in keys:
                nodes = {str(k): value for k, value in zip(keys, node.values, strict=True)}
                break
    if "classes" not in nodes:
        raise UserError(f"classes: {path} assigns no `classes`, a list of class names")
    return {
        key: [_text(path, element) for element in _elements(path, key, nodes[key])]
        for key in ("classes", "templates")
        if key in nodes
    }


def _elements(path: Path, key: str, node: ast.expr) -> list[ast.expr]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise UserError(
            f"classes: {path} line {node.lineno}: `{key}` is no list that is written out"
        )
    return node.elts


def _text(path: Path, node: ast.expr) -> str:
    """A string, or a function from a class name to a string as a template with `{}`."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Lambda(args=ast.arguments(args=[ast.arg(arg=name)]), body=body):
            match body:
                case ast.JoinedStr(values=parts):
                    return "".join(_part(path, part, name) for part in parts)
                case ast.Call(
                    func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format"),
                    args=[ast.Name(id=given)],
                    keywords=[],
                ) if given == name:
                    return text
    raise UserError(
        f"classes: {path} line {node.lineno}: neither text nor a function like "
        '`lambda c: f"a photo of a {c}."`; other code is not run'
    )


def _part(path: Path, part: ast.expr, name: str) -> str:
    match part:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=ast.Name(id=given), format_spec=None) if given == name:
            return "{}"
    raise UserError(
        f"classes: {path} line {part.lineno}: a template may hold {{{name}}} and nothing else"
    )
