"""What a scan found, as files: scores, the highest to look at, what to drop, and how good it is."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.data.scores import write_scores
from cleanclip_jax.data.subset import write_ids
from cleanclip_jax.detect.groups import Group
from cleanclip_jax.detect.opened import Opened
from cleanclip_jax.detect.roc import detection_figures
from cleanclip_jax.detect.scan import PARTS, Scores
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.files import read_json, write_whole
from cleanclip_jax.workdir import INTERVAL

DETECT, DROP, TOP, GROUPS, SCORES = "detect.json", "drop.csv", "top.csv", "groups.csv", "scores"
SHEET = "groups.png"
BINS = 60
_HISTOGRAM = {"low": float, "high": float, "all": [int], "poisons": ([int], None)}
_FIGURE = {"value": float | None, "interval": INTERVAL, "of": int, "count?": int | None}
SHAPE = {
    **{"model": {"path": str}, "by": str, "dropped": int, "warnings": [str]},
    **{"data": {"fingerprint": str, "pairs": int, "scored": int, "unreadable": int}},
    **{"poisons": int | None, "figures": {str: {str: _FIGURE}}, "histograms": {str: _HISTOGRAM}},
}


def write_findings(
    folder: Path,
    opened: Opened,
    settings: Settings,
    scores: Scores,
    groups: list[Group],
    by: str,
    drop: float,
    top: int,
) -> dict[str, Any]:
    """Writes all files of a scan; detect.json comes last, and then its parts go.

    Args:
      by: the detector whose highest scores are dropped, and shown first.
      drop: share of the scored pairs.
      top: how many are listed.
    """
    data, source = opened.data, opened.data.source
    ids, fingerprint = source.ids()[scores.index], source.root().fingerprint
    known = data.poisoned
    poisoned = None if known is None else known[scores.index]
    for name, column in scores.columns.items():
        about = {"detector": name, "model": json.dumps(dict(opened.model))}
        write_scores(folder / SCORES / f"{name}.parquet", ids, column, fingerprint, about)
    dropped = scores.top(by, drop)
    write_ids(folder / DROP, np.sort(ids[dropped]), fingerprint)
    write_whole(folder / TOP, _top(opened, scores, by, top))
    rows = [{**asdict(one), "ids": " ".join(map(str, one.ids))} for one in groups]
    write_whole(folder / GROUPS, _csv(rows, Group))
    results = {
        "settings": asdict(settings),
        "model": dict(opened.model),
        "floor": opened.floor and dict(opened.floor),
        "data": {
            "fingerprint": source.fingerprint,
            "pairs": len(source),
            "scored": len(scores.index),
            "unreadable": len(scores.unreadable),
            "without_caption": scores.without_caption,
        },
        "by": by,
        "dropped": len(dropped),
        "warnings": opened.warnings,
        "poisons": None if known is None else int(known.sum()),
        "dropped_poisons": None if poisoned is None else int(poisoned[dropped].sum()),
        "figures": {
            name: {key: asdict(one) for key, one in detection_figures(column, poisoned).items()}
            for name, column in scores.columns.items()
            if poisoned is not None
        },
    }
    results["histograms"] = {
        name: _histogram(column, poisoned) for name, column in scores.columns.items()
    }
    write_whole(folder / DETECT, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    for file in (folder / PARTS).glob("*.npz"):
        file.unlink(missing_ok=True)
    return results


def _histogram(scores: np.ndarray, poisoned: np.ndarray | None) -> dict[str, Any]:
    """Counts of scores between `low` and `high`, in bins of equal width: all, and poisons."""
    there = scores[~np.isnan(scores)]
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 0.0)
    ends = (low, high if high > low else low + 1)
    known = None if poisoned is None else np.histogram(scores[poisoned], BINS, ends)[0].tolist()
    return {
        "low": low,
        "high": ends[1],
        "all": np.histogram(there, BINS, ends)[0].tolist(),
        "poisons": known,
    }


def _top(opened: Opened, scores: Scores, by: str, count: int) -> str:
    source, known = opened.data.source, opened.data.poisoned
    rows = scores.top(by, 1.0)[:count]
    ids = source.ids()[scores.index]
    table = []
    for row in rows.tolist():
        index = int(scores.index[row])
        truth = {} if known is None else {"poisoned": int(known[index])}
        table.append(
            {
                "id": int(ids[row]),
                "where": source.where(index),
                "caption": opened.data.caption(index),
                "same_picture": int(scores.copies[row]),
                **{name: f"{column[row]:.6g}" for name, column in scores.columns.items()},
                **truth,
            }
        )
    return _csv(table)


def _csv(rows: list[dict[str, Any]], kind: Any = None) -> str:
    stream = io.StringIO()
    names = list(rows[0]) if rows else list(getattr(kind, "__dataclass_fields__", ()))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def summary(folder: Path) -> str:
    """A scan in a few lines, from its detect.json."""
    results = read_json(folder / DETECT, SHAPE, "scan again")
    data = results["data"]
    lines = [f"{data['scored']} of {data['pairs']} pairs scored by {results['model']['path']}"]
    lines += [f"left out: {data[k]} {k}" for k in ("unreadable", "without_caption") if data.get(k)]
    lines += [f"warning: {text}" for text in results["warnings"]]
    if results["poisons"] is not None:
        lines.append(
            f"{results['poisons']} poisons are known; in percent, with 95 % intervals and counts:"
        )
        names = list(next(iter(results["figures"].values())))
        lines.append(f"  {'':<15}" + "".join(f"{name:>17}" for name in names))
        for name, figures in results["figures"].items():
            lines.append(f"  {name:<15}" + "".join(f"{cell(one):>17}" for one in figures.values()))
    files = ", ".join((SCORES, TOP, GROUPS, SHEET, DETECT))
    lines.append(f"written: {folder}: {files}")
    lines.append(
        f"{results['dropped']} highest by {results['by']}: --config.data.train.skip={folder / DROP}"
    )
    return "\n".join(lines)


def cell(figure: Mapping[str, Any]) -> str:
    """A figure in a few letters: percent, with its count or its interval."""
    if figure["value"] is None:
        return "-"
    if figure.get("count") is not None:
        return f"{100 * figure['value']:.1f} ({figure['count']}/{figure['of']})"
    low_high = figure["interval"]
    ends = " [{:.0f}, {:.0f}]".format(*(100 * end for end in low_high)) if low_high else ""
    return f"{100 * figure['value']:.1f}{ends}"
