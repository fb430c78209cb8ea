"""The tables of a report: what they name and mark."""

import pytest

from cleanclip_jax.report.page import Table
from cleanclip_jax.report.results import every_figure, main_table, results
from cleanclip_jax.report.runs import Gathered
from cleanclip_jax.report.sweeps import Sweep

HEAD = "linear head on un-normalised features"


def with_floor(make_entry, name, folder, **values):
    entry = make_entry(name, floor={"workdir": folder, "step": 1}, **values)
    figures = dict(entry.runs[0].figures)
    figures["floor_asr"] = figures["asr"]
    return make_entry(name, floor={"workdir": folder, "step": 1}, figures=figures, **values)


def cells(table: Table, column: str) -> list:
    return [row[list(table.columns).index(column)] for row in table.rows]


def test_each_floor_is_named(make_entry):
    entries = [
        with_floor(make_entry, "a", "runs/clean"),
        with_floor(make_entry, "b", "others/clean"),
        with_floor(make_entry, "c", "runs/clean", classifier=HEAD),
        make_entry("d"),
    ]
    floors = [cell[-1] for cell in cells(main_table(entries), "floor ASR")]
    assert floors == ["of runs/clean", "of others/clean", "of runs/clean, from prompts", "—"]


def test_what_scored_the_classes_is_named_where_it_differs(make_entry):
    prompts, head = (
        make_entry("a", classifier="text, 1 templates"),
        make_entry("b", classifier=HEAD),
    )
    assert [row[0] for row in main_table([prompts, head]).rows] == [
        ("a", "from prompts, 1 template"),
        ("b", f"by a {HEAD}"),
    ]
    assert [row[0] for row in main_table([prompts, prompts]).rows] == ["a", "a"]
    # A head scores the set that it was trained for; another one's figures are from prompts.
    sets = dict(head.runs[0].evaluation["sets"])
    sets["far"] = {**sets["data"], "classifier": "text, 80 templates"}
    both = make_entry("b", sets=sets)
    assert main_table([both], "far").rows[0][0] == ("b", "from prompts, 80 templates")
    words = [str(results(Gathered([entry]))[0][0].blocks[0]) for entry in (prompts, head, both)]
    assert ["Classes are scored" in each for each in words] == [True, True, False]
    assert words[1].endswith(f"Classes are scored by a {HEAD}.")


def test_every_figure_is_a_row_with_all_runs(make_entry):
    one = make_entry("one").runs[0]
    figures = {**one.figures, "ca": {**one.figures["ca"], "definition": "another"}}
    two = make_entry("two", figures=figures).runs[0]
    (table, note) = every_figure({"one": one, "two": two}, 5)
    assert isinstance(table, Table) and table.columns == ["figure", "one", "two", "of what"]
    rows = {(row[0], row[-1]): row[1:3] for row in table.rows}
    assert len(rows) == len(one.figures) + 1 and str(note).startswith("Of 2 of 5 runs")
    assert rows["ca", "another"] == ["—", ("29.00", "[24.77, 33.63]", "116 of 400")]
    assert rows["asr", one.figures["asr"]["definition"]][0][2].startswith("21 of 355")


@pytest.mark.parametrize("seeds", [["0"], ["0", "1"]])
def test_seeds_are_spoken_of_where_there_are_several(tmp_path, make_entry, seeds):
    way = [{"step": step, "ca": 0.5, "asr": 0.01} for step in (1, 2)]
    rows = [{"seed": seed, "ca": 0.5, "asr": 0.01, "course": way} for seed in seeds]
    gathered = Gathered([make_entry()], sweeps={tmp_path: Sweep({"seed": seeds}, rows)})
    best = results(gathered)[0][-1]
    words = " ".join(map(repr, best.blocks))
    assert ("seed" in words) == (len(seeds) > 1) and best.title == "The best of each line"
