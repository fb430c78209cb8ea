"""Cells made: runs trained and measured, detectors' scores taken, each in a workdir of its own."""

import base64
import io
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
from PIL import Image

from cleanclip_jax import __version__
from cleanclip_jax.attacks.plan import Plan
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.detect.decree import smallest_patch
from cleanclip_jax.detect.opened import open_scan
from cleanclip_jax.detect.picture_scan import open_detector, score_pictures
from cleanclip_jax.detect.roc import detection_figures
from cleanclip_jax.detect.scan import scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.detect.scored import Tower
from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.clean_pictures import clean_pictures
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.measure.estimates import Figure, Figures
from cleanclip_jax.report.evaluation import measure_run
from cleanclip_jax.report.pictures import poison_sheet
from cleanclip_jax.run.clock import productive_seconds
from cleanclip_jax.run.members import train_members
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.start.start import open_start
from cleanclip_jax.suite.cells import command_of, config_of_cell, cost_of, digest_of
from cleanclip_jax.suite.ledger import Row, Store
from cleanclip_jax.suite.suites import CLEAN, Cell, Suite
from cleanclip_jax.workdir import EVALUATION, MANIFEST, METRICS, Workdir

FIGURES = ("ca", "asr", "asr_all", "pa", "clean_target_rate", "floor_asr")
SHOWN = 3  # poisons in a cell's picture
COLOURS = 64  # of it: a third of the bytes
log = logging.getLogger(__name__)


@dataclass
class Maker:
    """Makes a suite's cells in FOLDER/cells.

    Attributes:
      again: measure anew what was measured.
    """

    suite: Suite
    store: Store
    folder: Path
    command: str  # what runs the suite: a cell's is this with --only
    again: bool = False
    _trained: set[Cell] = field(default_factory=set)

    def workdir(self, cell: Cell) -> Path:
        """A cell's folder; a cell of another config has another."""
        words = "".join(c if c.isalnum() or c in ".,=-" else "_" for c in cell.name)
        return self.folder / "cells" / f"{words[:120]}-{digest_of(cell)[:10]}"

    def _parents(self, cell: Cell) -> dict[str, Path]:
        parents = {"start": cell.start, "floor": cell.floor}
        return {name: self.workdir(parent) for name, parent in parents.items() if parent}

    def make(self, cells: Sequence[Cell]) -> None:
        """Makes cells of one group, and takes their rows, be they figures or what went wrong."""
        if cells[0].kind == "detector":
            self._take(cells, lambda: self._detect(cells))
            return
        try:
            failures = self._train(cells)
        except Exception as error:
            failures = dict.fromkeys(cells, error)
        for cell in cells:
            self._take([cell], lambda cell=cell: self._measure(cell, failures))

    def _take(self, cells: Sequence[Cell], make: Callable[[], Mapping[Cell, Row]]) -> None:
        try:
            rows = make()
        except Exception as error:  # whatever it is, the other cells go on
            text = " ".join(f"{error}".split())[:500]
            known = isinstance(error, UserError)
            text = text if known else f"{type(error).__name__}: {text}".removesuffix(": ")
            # A fault of the program's comes with its traceback.
            log.warning("%s failed: %s", cells[0].name, text, exc_info=None if known else error)
            rows = {cell: {"figures": {}, "cost": {}, "error": text} for cell in cells}
        for cell, row in rows.items():
            facts = {
                "machine": machine(),
                "version": f"cleanclip-jax {__version__}, jax {jax.__version__}",
                "when": time.strftime("%Y-%m-%d", time.gmtime()),
                "command": self._command(cell),
            }
            self.store.put(cell, {**row, **facts})
        self.store.write()

    def _command(self, cell: Cell) -> str:
        if cell.kind != "detector":
            return command_of(cell, self.workdir(cell), self._parents(cell))
        return f"{self.command} --only={','.join(f'{k}={v}' for k, v in cell.places.items())}"

    def _train(self, cells: Sequence[Cell]) -> dict[Cell, Exception]:
        """Trains the runs of some cells, those that they begin with first; returns the failures.

        What has no workdir here, though it has figures, is trained again.
        """
        failures: dict[Cell, Exception] = {}
        todo = [cell for cell in cells if cell not in self._trained]
        for parent in dict.fromkeys(p for c in todo for p in (c.floor, c.start) if p):
            for failure in self._train([parent]).values():
                failures |= {
                    cell: UserError(f"{parent.name} failed: {failure}")
                    for cell in todo
                    if parent in (cell.floor, cell.start)
                }
        runs = {}
        for cell in todo:
            try:
                if cell not in failures:
                    runs[cell] = config_of_cell(cell, self._parents(cell))
            except UserError as error:
                failures[cell] = error
        done = train_members({self.workdir(cell): config for cell, config in runs.items()})
        failures |= {c: done[self.workdir(c)] for c in runs if self.workdir(c) in done}
        self._trained |= set(todo) - failures.keys()
        return failures

    def _measure(self, cell: Cell, failures: Mapping[Cell, Exception]) -> dict[Cell, Row]:
        if cell in failures:
            raise failures[cell]
        workdir = Workdir(self.workdir(cell))
        start = open_start(workdir.path)
        done = workdir.has(EVALUATION) and not self.again
        evaluation = workdir.read_json(EVALUATION) if done else measure_run(start, start.config)
        every, at = evaluation["figures"], cell.places
        row = self.suite.content["attacks"].get(at["attack"], {})
        names = dict(zip(FIGURES, FIGURES, strict=True)) | {"asr": row.get("asr", "asr")}
        figures = {name: short(every[key]) for name, key in names.items() if key in every}
        if at["attack"] != CLEAN and "asr" not in figures:
            raise UserError(f"attack {at['attack']}: the run has no figure {names['asr']!r}")
        seconds = productive_seconds(workdir.lines(METRICS))
        made: Row = {
            "figures": figures,
            "cost": cost_of(self.suite, cell) | {"seconds": round(seconds, 1)},
        }
        first = str(self.suite.content["seeds"][0])
        if cell.kind == "poisoned" and at["seed"] == first and workdir.has(MANIFEST):
            source = open_source(start.config.data.train.to_dict())
            made["picture"] = picture_of(source, Plan.load(workdir / MANIFEST))
        return {cell: made}

    def _detect(self, cells: Sequence[Cell]) -> dict[Cell, Row]:
        """Scores by several detectors of one kind and one model."""
        parents = dict.fromkeys(p for p in (cells[0].start, cells[0].floor) if p)
        for failure in self._train(list(parents)).values():
            raise failure
        made: dict[Cell, Row] = {}
        for kind in ("pairs", "pictures", "model"):
            rows = self.suite.content["detectors"]
            some = {
                c.places["detector"]: c for c in cells if rows[c.places["detector"]]["kind"] == kind
            }
            if not some:
                continue
            began = time.perf_counter()
            figures = getattr(self, f"_by_{kind}")(cells[0], list(some))
            cost = {"seconds": round(time.perf_counter() - began, 1)}
            for name, cell in some.items():
                shown = {key: short(asdict(one)) for key, one in figures[name].items()}
                made[cell] = {"figures": shown, "cost": cost_of(self.suite, cell) | cost}
        return made

    def _by_pairs(self, cell: Cell, names: Sequence[str]) -> dict[str, Figures]:
        assert cell.start is not None
        start = open_start(self.workdir(cell.start))
        settings = Settings(tuple(names), **dict(cell.options))  # pyright: ignore[reportArgumentType]
        floor = str(self.workdir(cell.floor)) if cell.floor else None
        opened = open_scan(start, start.config, settings, floor=floor)
        folder = self.workdir(cell).with_name(f"scan-{digest_of(cell)[:10]}-{len(names)}")
        scores = scan(opened.passes, opened.data, settings, opened.reading, folder)
        known = opened.data.poisoned
        if known is None:
            raise UserError(f"{cell.start.name}: its poisons are not known")
        shutil.rmtree(folder, ignore_errors=True)
        return {
            name: detection_figures(scores.columns[name], known[scores.index]) for name in names
        }

    def _by_pictures(self, cell: Cell, names: Sequence[str]) -> dict[str, Figures]:
        assert cell.start is not None
        start = open_start(self.workdir(cell.start))
        config = start.config
        encoder = encoder_from(start, make_mesh(config.mesh.data, config.mesh.fsdp), config)
        detector, labelled = open_detector(encoder, config)
        return dict.fromkeys(names, score_pictures(detector, config, labelled).figures())

    def _by_model(self, cell: Cell, names: Sequence[str]) -> dict[str, Figures]:
        assert cell.start is not None
        start, options = open_start(self.workdir(cell.start)), dict(cell.options)
        config, steps = start.config, options.get("steps", 1000)
        encoder = encoder_from(start, make_mesh(config.mesh.data, config.mesh.fsdp), config)
        source = open_source(config.data.train.to_dict())
        pictures = clean_pictures(config, source, options.get("pictures", 1000), 0)
        patch = smallest_patch(Tower(encoder), pictures, steps, options.get("batch", 32))
        meaning = "the smallest patch that makes all pictures alike, as a share of the picture"
        share = Figure(meaning, patch.share, None, len(pictures))
        return {name: {"share": share} for name in names}


def short(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure without its definition, which docs/benchmark.md has for all."""

    def cut(number: float | None) -> float | None:
        return None if number is None else round(number, 5)

    interval = figure["interval"] and [cut(end) for end in figure["interval"]]
    return {"value": cut(figure["value"]), "interval": interval, "of": figure["of"]}


def picture_of(source: Any, plan: Plan) -> str:
    """Some poisoned pairs beside what they were, as a PNG of few colours in base64."""
    with Image.open(io.BytesIO(poison_sheet(source, plan, SHOWN)[0])) as sheet:
        few, png = sheet.convert("RGB").quantize(COLOURS), io.BytesIO()
    few.save(png, "PNG", optimize=True)
    return base64.b64encode(png.getvalue()).decode()


def machine() -> str:
    """'2 CPU cores', '8 x NVIDIA H100'."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{len(devices)} x {devices[0].device_kind}"
