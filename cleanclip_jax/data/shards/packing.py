"""A source to a folder of ArrayRecord shards: what is made, and resumed where it stopped.

The notes of the work lie in .prepare below the output: the plan, and for each finished shard its
part of the index and its bad rows. Its last act is dataset.json; then the notes go.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from cleanclip_jax.cache import remember_digest, sha256
from cleanclip_jax.data.shards import layout
from cleanclip_jax.data.shards.arrayrecord import open_arrayrecord
from cleanclip_jax.data.shards.layout import Output
from cleanclip_jax.data.shards.repack import Plan, bad_name, read_part
from cleanclip_jax.errors import UserError, refusing
from cleanclip_jax.record import Source
from cleanclip_jax.shapes import load_json
from cleanclip_jax.views.decode import BadRecord

log = logging.getLogger(__name__)

BAD_ROWS = "bad_rows.jsonl"
PLAN = f"{layout.WORK}/plan.json"
SHARD_ROWS = 4096
MOST_SHARDS = 512  # each reader keeps all of them open

# Makes every shard of the plan; raises UserError where more rows are bad than allowed.
Runner = Callable[[Plan, Output, int], None]


def make_plan(
    source: Source,
    shards: int | None = None,
    short_side: int | None = None,
    quality: int | None = None,
) -> Plan:
    """The plan of a source's prepared form; shards=None: one for every 4,096 rows, 512 at most."""
    rows = len(source)
    shards = min(-(-rows // SHARD_ROWS), MOST_SHARDS) if shards is None else shards
    if not 1 <= shards <= rows:
        raise UserError(f"shards: {shards} for {rows} rows; give 1 to {rows}.")
    if short_side is None and quality is not None:
        raise UserError("quality: only pictures that are resized are encoded; give short_side too.")
    if short_side is not None and short_side < 1:
        raise UserError(f"short_side: {short_side}; give a number of pixels, as 256.")
    if short_side is not None and quality is None:
        quality = 95
    if quality is not None and not 1 <= quality <= 100:
        raise UserError(f"quality: {quality}; give 1 to 100.")
    if source.has_lists():
        raise UserError(
            "the pictures have several captions, and prepared data has one a picture: train on the "
            "source itself, or write a row for each caption."
        )
    return Plan(source.fingerprint, rows, shards, _has_captions(source), short_side, quality)


def prepare(
    plan: Plan,
    class_names: tuple[str, ...] | None,
    output: Output,
    max_bad_share: float,
    run: Runner,
) -> dict[str, Any]:
    """Makes the dataset that the plan describes, or what is missing of it.

    Args:
      class_names: the source's.
      max_bad_share: of the rows that may be unreadable.
      run: makes the shards (runners.in_processes, beam.on_runner).

    Returns what dataset.json holds.
    """
    allowed = int(max_bad_share * plan.rows)
    todo = "the same command goes on when there is space and permission"
    with refusing(f"{output.place}: cannot be read or written", todo, OSError):
        # Again behind the lock: another process may just have finished.
        if not _is_complete(plan, output):
            with output.taken():
                if not _is_complete(plan, output):
                    _begin(plan, output)
                    run(plan, output, allowed)
                    _assemble(plan, class_names, output, allowed)
                output.remove_work()
        return json.loads(output.read(layout.DATASET))


def too_many(bad: int, allowed: int, plan: Plan, output: Output) -> UserError:
    """The error that ends the work; the bad rows met so far are reported first."""
    parts = [bad_name(n) for n in range(plan.shards)]
    report = [output.read(part) for part in parts if output.size(part) is not None]
    unfinished = (folder / "bad.jsonl" for folder in output.scratches())
    report += [path.read_bytes() for path in unfinished if path.is_file()]
    lines = []
    for line in b"".join(report).splitlines():
        with suppress(ValueError):  # of a line that a process was writing
            lines.append(load_json(line))
    lines.sort(key=lambda line: line["index"])
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    output.write(BAD_ROWS, text.encode())
    last = f"; the last: {lines[-1]['where']}: {lines[-1]['reason']}" if lines else ""
    return UserError(
        f"{bad} unreadable rows, more than the {allowed} of {plan.rows} that max_bad_share allows "
        f"({output.place}/{BAD_ROWS}){last}"
    )


def _is_complete(plan: Plan, output: Output) -> bool:
    """Whether the whole dataset is there already; refuses a folder that holds anything else."""
    names = output.names()
    if layout.DATASET not in names:
        if names and output.size(PLAN) is None:
            raise _foreign(output, names[0])
        return False
    _check_same(plan, layout.DATASET, output)
    if output.folder is not None:  # a store's would be fetched for it
        open_arrayrecord(output.folder)
    log.info("%s is complete already", output.place)
    return True


def _begin(plan: Plan, output: Output) -> None:
    """Writes the plan down, or checks that the one that was begun is the same."""
    if output.size(PLAN) is None:
        output.write(PLAN, _json({"version": layout.VERSION, "plan": asdict(plan)}))
        return
    _check_same(plan, PLAN, output)
    output.clear_scratches()


def _check_same(plan: Plan, name: str, output: Output) -> None:
    """Refuses another plan in a file that was written before."""
    wanted = asdict(plan)
    try:
        content = load_json(output.read(name))
        version, present = content["version"], dict(content["plan"])
    except (ValueError, KeyError, TypeError):
        raise _foreign(output, name) from None
    different = [key for key in wanted if wanted[key] != present.get(key)]
    if version != layout.VERSION:
        raise UserError(f"{output.place}: begun by another version; name a new output.")
    if "source" in different:
        raise UserError(f"{output.place}: holds another dataset's shards; name a new output.")
    for key in different:
        raise UserError(
            f"{output.place}: its shards were made with {key}={present.get(key)}, not "
            f"{wanted[key]}; give the same or name a new output."
        )


def _foreign(output: Output, name: str) -> UserError:
    return UserError(
        f"{output.place}: holds {name}, which cleanclip prepare did not write; name a new or empty "
        "folder."
    )


def _assemble(
    plan: Plan, class_names: tuple[str, ...] | None, output: Output, allowed: int
) -> None:
    """Puts the finished shards' notes together; dataset.json comes last."""
    shards, bad_rows = [], []
    with output.scratch() as folder:
        index = folder / "index"
        with layout.index_writer(index) as writer:
            for number in range(plan.shards):
                table, shard = read_part(output, number)
                writer.write_table(table.replace_schema_metadata())
                shards.append(shard)
                bad_rows += output.read(bad_name(number)).splitlines(keepends=True)
        if len(bad_rows) > allowed:
            raise too_many(len(bad_rows), allowed, plan, output)
        if len(bad_rows) == plan.rows:
            raise UserError(f"{output.place}: no row of the source could be read.")
        described = {"bytes": index.stat().st_size, "sha256": sha256(index)}
        output.put(index, layout.INDEX)
    output.write(BAD_ROWS, b"".join(bad_rows))
    content = {
        "version": layout.VERSION,
        "fingerprint": layout.fingerprint(shards, described["sha256"], class_names),
        "class_names": class_names,
        "records": sum(shard.records for shard in shards),
        "bad_rows": len(bad_rows),
        "plan": asdict(plan),
        "index": described,
        "shards": [asdict(shard) for shard in shards],
    }
    output.write(layout.DATASET, _json(content))
    if output.folder is not None:
        for shard in shards:
            remember_digest(output.folder / shard.name, shard.sha256)


def _has_captions(source: Source) -> bool:
    for index in range(len(source)):
        with suppress(BadRecord):
            if source.caption(index).strip():
                return True
    return False


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
