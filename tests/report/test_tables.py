"""Means over seeds and their intervals, against Student's table; figures as lines of text."""

import pytest

from cleanclip_jax.report.tables import as_text, percent, spread


def test_three_seeds_have_students_interval():
    three = spread([0.5, 0.6, 0.7])
    assert three is not None and three.n == 3
    assert three.mean == pytest.approx(0.6) and three.deviation == pytest.approx(0.1)
    # 4.3027 x 0.1 / sqrt 3
    assert three.interval == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-5)
    assert str(three) == "60.0 [35.2, 84.8]"


def test_intervals_stay_between_0_and_1():
    low, high, same = spread([0.0, 0.01, 0.05]), spread([1.0, 0.9]), spread([0.25, 0.25])
    assert low is not None and low.interval is not None and low.interval[0] == 0.0
    assert high is not None and high.interval is not None and high.interval[1] == 1.0
    assert same is not None and same.interval == (0.25, 0.25)


def test_one_run_has_the_interval_of_its_pictures():
    one = spread([0.5], [0.4, 0.6])
    assert one is not None and one.deviation is None and str(one) == "50.0 [40.0, 60.0]"
    assert one.of == "pictures"
    assert str(spread([0.5])) == "50.0"


def test_what_was_not_measured_counts_for_nothing():
    assert spread([]) is None and spread([None]) is None and spread([float("nan")]) is None
    two = spread([None, 0.25, 0.75])
    assert two is not None and two.n == 2 and two.mean == 0.5


def share(count, of, definition="x"):
    value = count / of
    return {
        **{"value": value, "interval": [value / 2, value], "count": count, "of": of},
        **{"unit": "share", "definition": definition},
    }


RANK = {"value": 12.5, "interval": [9.0, 17.0], "of": 8, "unit": "rank", "definition": "rank"}


def facts(**changes):
    return {
        "classes": 10,
        "classifier": "text, 3 templates",
        "target": {"index": 7, "name": "seven"},
        "note": "",
        "pictures": {"labelled": 4, "without_class": 0, "unreadable": 0},
        **changes,
    }


def evaluation(sets, figures, retrieval=None):
    return {
        **{"workdir": "runs/x", "step": 5, "sets": sets},
        **{"figures": figures, "retrieval": retrieval},
    }


def test_values_with_their_intervals():
    assert percent(share(1, 4)) == "25.00 [12.50, 25.00]"
    assert percent(share(1, 4), 1) == "25.0 [12.5, 25.0]"
    assert percent(RANK) == "12.5 [9.0, 17.0]"
    assert percent({**RANK, "value": 3.0}) == "3 [9, 17]"
    assert percent(None) == percent({"value": None, "unit": "share"}) == "—"


def test_one_set_is_shown_in_full():
    figures = {"ca": share(3, 4, "clean"), "ca_top3": share(4, 4), "ca_top5": share(4, 4)}
    lines = as_text(evaluation({"data": facts(note="a remark")}, figures)).splitlines()
    assert lines[0] == "runs/x at step 5"
    assert "from prompts, 3 templates, target 'seven' (7)" in lines[1]
    assert lines[2].split() == ["ca", "75.00", "[37.50,", "75.00]", "3", "of", "4", "clean"]
    assert lines[3].split()[:4] == ["among", "the", "top", "3/5"] and len(lines[3].split()) == 10
    assert lines[4:] == ["  data: a remark"]


def test_several_sets_are_rows_of_one_table():
    sets = {
        "data": facts(),
        "far": facts(
            target=None,
            note="'seven' is not among the 2 classes",
            pictures={"labelled": 4, "without_class": 3, "unreadable": 0},
        ),
    }
    figures = {
        **{"ca": share(3, 4, "clean"), "asr": share(1, 2, "hit"), "asr_top3": share(1, 2)},
        "far.ca": share(2, 4, "clean"),
    }
    lines = as_text(evaluation(sets, figures)).splitlines()
    assert lines[1].split() == ["set", "classes", "target", "ca", "asr"]
    assert lines[2].split()[:4] == ["data", "10", "seven", "75.0"]
    assert lines[3].split()[-1] == "—" and lines[3].split()[:3] == ["far", "10", "—"]
    assert "  asr: hit" in lines and "  far: 'seven' is not among the 2 classes" in lines
    assert "  far: left out: 3 without class" in lines


def test_retrieval_stands_below():
    retrieval = {
        **{"pictures": 8, "captions": 40, "target": "seven", "unreadable": 2},
        **{"without_caption": 0, "empty_captions": 1},
    }
    figures = {"retrieval.image_to_text_median_rank": RANK, "retrieval.backdoor_r1": share(1, 8)}
    lines = as_text(evaluation({}, figures, retrieval)).splitlines()
    assert lines[1] == "retrieval: 8 pictures, 40 captions, target 'seven'"
    assert lines[2].split()[:5] == ["image_to_text_median_rank", "12.5", "[9.0,", "17.0]", "of"]
    assert lines[3].split()[0] == "backdoor_r1"
    assert lines[4:] == ["  left out: 2 unreadable", "  left out: 1 empty captions"]


def test_names_stay_in_their_lines_and_floor_and_head_are_named():
    sets = {"a\x1b[31m\nb": facts(note="\r"), "far": facts(classifier="linear head")}
    content = {**evaluation(sets, {"ca": share(3, 4)}), "floor": {"workdir": "a\nb", "step": 3}}
    lines = as_text(content).splitlines()
    assert all(line.isprintable() for line in lines) and len(lines) == 10
    assert lines[1] == r"floor: a\nb at step 3, from prompts"
    assert (
        r"  a\x1b[31m\nb: scored from prompts, 3 templates" in lines
        and "  far: scored by a linear head" in lines
    )


def test_whose_tower_holds_a_backdoor_is_a_line_an_asr():
    strong = {"signal": 0.9, "vrs": 0.9999, "trs": 0.0002, "css": 0.0001, "holder": "vrs"}
    mixed = {**strong, "vrs": 0.5, "holder": None}
    weak = {"signal": 0.01, "vrs": None, "trs": None, "css": None, "holder": None}
    branches = {"data": {"asr": strong, "asr.b": mixed, "asr.c": weak, "asr.d": None}}
    content = {**evaluation({"data": facts()}, {"ca": share(3, 4)}), "branches": branches}
    assert as_text(content).splitlines()[-3:] == [
        "data, asr: VRS 1.000, TRS 0.000, CSS 0.000; the image tower clearly holds the backdoor",
        "data, asr.b: VRS 0.500, TRS 0.000, CSS 0.000; no tower clearly holds the backdoor",
        "data, asr.c: signal 0.010, too weak to say whose tower holds the backdoor",
    ]
