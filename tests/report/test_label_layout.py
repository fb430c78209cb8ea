import itertools

import pytest

from cleanclip_jax.report.label_layout import around, boxes_along, overlap, place

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
