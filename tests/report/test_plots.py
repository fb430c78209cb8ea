import io
import itertools

import numpy as np
import pytest
from PIL import Image

from cleanclip_jax.report import plots
from cleanclip_jax.report.plots import (
    GROUPS,
    Point,
    around,
    boxes_along,
    ca_asr_curve,
    contact_sheet,
    difference,
    overlap,
    place,
    projection_figure,
)

START = Point(0.45, 0.99, "poisoned")
SERIES = {
    "multimodal only": [Point(0.48, 0.99, "3e-4"), Point(0.51, 0.01, "3e-3")],
    "CleanCLIP": [Point(0.56, 0.73, "1e-3"), Point(0.55, 0.02, "3e-3")],
}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def spots(image: np.ndarray, colour: str) -> np.ndarray:
    """Places (row, column) of a colour."""
    return np.argwhere((image == rgb(colour)).all(-1))


def test_every_figure_is_as_wide_as_the_text_and_white():
    picture = np.zeros((8, 8, 3), np.uint8)
    for png in (
        ca_asr_curve(SERIES, START),
        plots.training_curves({"a": [{"step": 1, "loss": 2.0}]}, ["loss"]),
        contact_sheet([(picture, picture, picture, "old", "new")]),
    ):
        image = pixels(png)
        assert image.shape[1] == plots.WIDTH * plots.DPI
        assert (image[-1, -1] == 255).all()


def test_series_differ_without_colour():
    _, markers, lines = zip(*plots.LOOKS, strict=True)
    assert len(set(markers)) == len(set(lines)) == len(plots.LOOKS)


def test_up_is_accuracy_and_left_is_safety():
    points = {"good": [Point(0.8, 0.1)], "bad": [Point(0.2, 0.9)]}
    image = pixels(ca_asr_curve(points))[150:]  # below the legend
    good, bad = (spots(image, plots.LOOKS[number][0]).mean(0) for number in (0, 1))
    assert good[0] < bad[0]
    assert bad[1] - good[1] > 0.6 * image.shape[1]  # 80 of 104 percent of the axis


def test_small_differences_are_not_blown_up():
    low, high = plots._range([96.0, 96.1])
    assert high - low >= 4


def test_start_and_points_are_optional():
    ca_asr_curve({"none": [], **SERIES})
    ca_asr_curve({}, START)


def test_training_curves_want_known_keys():
    rows = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "ca": 0.5}]
    plots.training_curves({"a": rows, "b": []}, ["loss", "ca"])
    with pytest.raises(ValueError, match="'in_modal'"):
        plots.training_curves({"a": rows}, ["loss", "in_modal"])


def test_a_run_without_the_key_leaves_the_panel_to_others():
    both = {"a": [{"step": s, "x": s} for s in range(9)], "b": [{"step": 3, "y": 1}]}
    image = pixels(plots.training_curves(both, ["x", "y"]))
    half = image.shape[0] // 2
    assert len(spots(image[half:], plots.LOOKS[1][0])) > 0
    assert len(spots(image[half:], plots.LOOKS[0][0])) == 0


def test_pixels_of_the_sheet_stay_blocks():
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    image = pixels(contact_sheet([(colours, colours[::-1].copy(), colours, "a", "b")]))
    side = int(plots.PICTURE * plots.DPI)
    for corner in colours.reshape(-1, 3):
        exact = (image == corner).all(-1).sum()
        assert exact == pytest.approx(3 * (side / 2) ** 2, rel=0.05)


def test_rows_of_the_sheet_stand_under_one_another():
    red, blue = (np.full((4, 4, 3), c, np.uint8) for c in ([255, 0, 0], [0, 0, 255]))
    image = pixels(contact_sheet([(red, red, red, "a", "b"), (blue, blue, blue, "c", "d")]))
    assert spots(image, "#ff0000")[:, 0].max() < spots(image, "#0000ff")[:, 0].min()


@pytest.mark.parametrize("caption", [r"from $5 \frac to $6", "\u72ac \U0001f600", "", "long " * 80])
def test_any_caption_is_drawn(caption: str):
    picture = np.zeros((8, 12, 3), np.uint8)
    plain = contact_sheet([(picture, picture, picture, "a", "b")])
    assert pixels(contact_sheet([(picture, picture, picture, caption, "b")])).shape == (
        pixels(plain).shape
    )


def test_difference_is_black_where_nothing_differs():
    before = np.full((4, 4, 3), 100, np.uint8)
    after = before.copy()
    after[3, 3] = (90, 110, 120)
    shown = difference(before, after)
    assert shown[3, 3].tolist() == [127, 127, 255]
    assert shown.sum() == shown[3, 3].sum()
    assert not difference(before, before).any()


def test_groups_differ_with_and_without_colour():
    assert len({marker for marker, _ in GROUPS.values()}) == len(GROUPS)
    assert len({colour for _, colour in GROUPS.values()}) == len(GROUPS)
    rng = np.random.default_rng(0)
    places = rng.standard_normal((40, 2)).astype(np.float32)
    panels = {"PCA": places, "t-SNE": places}
    one = pixels(projection_figure({"before": (panels, list(GROUPS) * 10)}))
    two = pixels(projection_figure({n: (panels, list(GROUPS) * 10) for n in ("before", "after")}))
    assert one.shape[1] == two.shape[1] == plots.WIDTH * plots.DPI
    assert two.shape[0] > 1.7 * one.shape[0]
    for _, colour in GROUPS.values():
        marks = np.argwhere((one[200:] == tuple(bytes.fromhex(colour[1:]))).all(-1))
        left, right = (marks[:, 1] < 672).sum(), (marks[:, 1] > 672).sum()
        assert left > 200 and right > 200, colour  # below the legend, in both panels


FRAME = (0.0, 0.0, 600.0, 400.0)


def test_overlap_is_the_shared_area():
    assert overlap((0, 0, 4, 4), (3, 2, 9, 9)) == 2
    assert overlap((0, 0, 4, 4), (4, 0, 8, 4)) == 0
    assert overlap((0, 0, 4, 4), (5, 5, 8, 8)) == 0


def test_boxes_cover_the_whole_line():
    covered = boxes_along([(0, 0), (100, 50), (0, 100)], 8)
    for share in (0.0, 0.3, 0.77):
        for spot in ((100 * share, 50 * share), (100 - 100 * share, 50 + 50 * share)):
            assert any(overlap(around(spot, 1, 1), box) > 0 for box in covered)


@pytest.mark.parametrize("spot", [(0, 0), (600, 400), (600, 0), (300, 399)])
def test_a_label_in_a_corner_stays_inside(spot: tuple[float, float]):
    label = around(place(spot, 40, 12, 8, [], FRAME), 40, 12)
    assert overlap(label, FRAME) == pytest.approx(40 * 12)


def test_labels_of_crowded_points_do_not_cover_one_another():
    spots = [(300.0, 200.0), (306.0, 203.0), (303.0, 195.0), (297.0, 206.0)]
    taken = [box for spot in spots for box in boxes_along([spot], 10)]
    labels = []
    for spot in spots:
        labels.append(around(place(spot, 30, 10, 8, taken, FRAME), 30, 10))
        taken.append(labels[-1])
    assert all(overlap(a, b) == 0 for a, b in itertools.combinations(labels, 2))
