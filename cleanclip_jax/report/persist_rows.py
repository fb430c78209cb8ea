"""What `cleanclip persist` writes down: its file's shape, and the courses of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

CLEANED, POISONED, FLOOR = "cleaned", "poisoned", "floor"
FOLDER, PERSIST, PICTURE = "persist", "persist.json", "persist.png"
NAMES = {CLEANED: "cleaned", FLOOR: "never poisoned"}
_ROW = {"protocol": str, "model": {CLEANED, POISONED, FLOOR}, "at?": float | str}
_ROW |= {"rate?": float, "seed?": int, "figures": {str: {"value": float | None}}}
SHAPE = {
    "settings": dict,
    "command": str,
    "models": {str: str},
    "rows": [_ROW],
}
Rows = Sequence[Mapping[str, Any]]


def names_of(rows: Rows) -> list[str]:
    """The figures' names, in the order in which rows have them."""
    return list(dict.fromkeys(name for row in rows for name in row["figures"]))


def courses(rows: Rows, protocol: str, figure: str) -> dict[tuple[Any, ...], dict[float, float]]:
    """{(model, rate, seed): {at: value}} of a protocol, begun with what was before it."""
    begun = {
        row["model"]: row["figures"][figure]["value"]
        for row in rows
        if row["protocol"] == "before" and figure in row["figures"]
    }
    result: dict[tuple[Any, ...], dict[float, float]] = {}
    for row in rows:
        value = row["figures"].get(figure, {}).get("value")
        if row["protocol"] != protocol or value is None:
            continue
        first = begun.get(row["model"])
        fresh = {} if first is None or protocol == "path" else {0.0: first}
        key = (row["model"], row.get("rate"), row.get("seed"))
        result.setdefault(key, fresh)[float(row["at"])] = value
    return result


def woken(rows: Rows, asr: str, model: str, at: str) -> dict[int, float]:
    """Attack success with a perturbation, by seed."""
    return {
        row["seed"]: row["figures"][asr]["value"]
        for row in rows
        if row["protocol"] == "reactivation" and row["model"] == model and row["at"] == at
    }
