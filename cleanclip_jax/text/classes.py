"""Class names and prompt templates read from a file: JSON, or the original's `classes.py`.

A Python file is parsed and never run (nothing executed, docs/fidelity.md): it holds literals, and
templates may be functions like `lambda c: f"a photo of a {c}."`.
"""

import ast
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.files import read_bytes, user_path
from cleanclip_jax.shapes import parse_json

ENDINGS = (".json", ".py")
KEYS = ("classes", "templates")


@dataclass(frozen=True)
class ClassFile:
    """What a file holds; templates have `{}` where the class name goes, () if it has none."""

    names: tuple[str, ...]
    templates: tuple[str, ...]


def is_class_file(spec: str) -> bool:
    """Whether a text names a file of classes: 'PATH.json', 'PATH.py', with or without '#KEY'."""
    return spec.partition("#")[0].endswith(ENDINGS)


def read_classes(spec: str, default_key: str | None = None) -> ClassFile:
    """Reads 'PATH' or 'PATH#KEY'.

    Args:
      spec: JSON that is a list of names, or an object of `classes` and, if it likes, `templates`,
        or of several such under their keys; or a Python file with the same in a dictionary, or
        in the variables `classes` and `templates`.
      default_key: which of several, where the spec has no key.
    """
    path, _, key = spec.partition("#")
    content = _parsed(spec)
    if _has_several(content):
        if not key:
            only = next(iter(content)) if len(content) == 1 else ""
            key = default_key if default_key in content else only
        if key not in content:
            if key:
                raise unknown(f"classes: {path}", key, content)
            raise UserError(
                f"classes: {path} holds {', '.join(content) or 'nothing'}; name one: {path}#KEY"
            )
        content = content[key]
    entry = content if isinstance(content, Mapping) else {"classes": content}
    names, templates = entry.get("classes") or (), entry.get("templates") or ()
    for what, words in (("class names", names), ("templates", templates)):
        texts = isinstance(words, Sequence) and not isinstance(words, str)
        if not (texts and all(isinstance(word, str) for word in words)) or not names:
            raise UserError(f"classes: {path} has no list of {what}, each of them text")
    for template in templates:
        if "{}" not in template:
            raise UserError(f"classes: {path}: the template {template!r} has no {{}} for the class")
    return ClassFile(tuple(names), tuple(templates))


def has_entry(spec: str, key: str) -> bool:
    """Whether the file of 'PATH' or 'PATH#KEY' holds several sets, and one under `key`."""
    content = _parsed(spec)
    return _has_several(content) and key in content


def _has_several(content: Any) -> bool:
    return isinstance(content, Mapping) and "classes" not in content


def _parsed(spec: str) -> Any:
    name = spec.partition("#")[0]
    if not name.endswith(ENDINGS):
        raise UserError(f"classes: {spec!r} is no file that ends with {' or '.join(ENDINGS)}")
    path = user_path(name)
    data = read_bytes(path)
    if name.endswith(".json"):
        return parse_json(f"classes: {path}", data, object)
    try:
        return _from_python(path, data.decode())
    except UnicodeDecodeError:
        raise UserError(f"classes: {path} can't be read: it is not UTF-8 text") from None


def _from_python(path: Path, text: str) -> dict[str, Any]:
    """`classes` and `templates` of a file's dictionary, bare or with a name, or its variables."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes, in several lines
            body = _Templates().visit(ast.parse(text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        raise UserError(f"classes: {path} line {line} is not readable as Python") from None
    nodes: dict[str, ast.expr] = {}
    for statement in body:
        match statement:
            case (
                ast.Expr(value=ast.Dict(keys=keys, values=values))
                | ast.Assign(value=ast.Dict(keys=keys, values=values))
                | ast.AnnAssign(value=ast.Dict(keys=keys, values=values))
            ):
                pairs = zip(keys, values, strict=True)
                nodes |= {str(k.value): node for k, node in pairs if isinstance(k, ast.Constant)}
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                nodes[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                nodes[name] = value
    if "classes" not in nodes:
        raise UserError(f"classes: {path} assigns no `classes`, a list of class names")
    return {key: _texts(path, key, nodes[key]) for key in KEYS if key in nodes}


def _texts(path: Path, key: str, node: ast.expr) -> list[Any]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise UserError(f"classes: {path} line {node.lineno}: `{key}` is no list, written out")
    for element in node.elts:
        if not isinstance(element, ast.Constant):
            raise UserError(
                f"classes: {path} line {element.lineno}: neither text nor a function of the class "
                'name alone, like `lambda c: f"a photo of a {c}."`; other code is not run'
            )
    return [element.value for element in node.elts if isinstance(element, ast.Constant)]


class _Templates(ast.NodeTransformer):
    """Makes text with `{}` of a function from a class name to a text."""

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        text = None
        match node.args.args, node.body:
            case [ast.arg(arg=name)], ast.JoinedStr(values=parts):
                text = _joined(parts, name)
            case (
                [ast.arg(arg=name)],
                ast.Call(
                    func=ast.Attribute(value=ast.Constant(value=str(words)), attr="format"),
                    args=[ast.Name(id=given)],
                    keywords=[],
                ),
            ) if given == name:
                text = words
        return node if text is None else ast.copy_location(ast.Constant(text), node)


def _joined(parts: list[ast.expr], name: str) -> str | None:
    """The text of an f-string with `{}` for `{name}`; None where it holds anything else."""
    text = ""
    for part in parts:
        match part:
            case ast.Constant(value=str(words)):
                text += words
            case ast.FormattedValue(value=ast.Name(id=given), conversion=-1, format_spec=None) if (
                given == name
            ):
                text += "{}"
            case _:
                return None
    return text
