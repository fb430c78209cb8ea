"""The figure of projections: every group in its own mark, a row a model."""

import io

import numpy as np
from PIL import Image

from cleanclip_jax.report import plots as figures
from cleanclip_jax.report.projection_plot import GROUPS, Scatter, projection_figure


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_groups_are_told_apart_with_and_without_colour():
    assert len({marker for marker, _ in GROUPS.values()}) == len(GROUPS)
    assert len({colour for _, colour in GROUPS.values()}) == len(GROUPS)
    rng = np.random.default_rng(0)
    places = rng.standard_normal((40, 2)).astype(np.float32)
    panels = [Scatter("PCA", places), Scatter("t-SNE", places)]
    one = pixels(projection_figure({"before": (panels, list(GROUPS) * 10)}))
    two = pixels(projection_figure({n: (panels, list(GROUPS) * 10) for n in ("before", "after")}))
    assert one.shape[1] == two.shape[1] == figures.WIDTH * figures.DPI
    assert two.shape[0] > 1.7 * one.shape[0]
    for _, colour in GROUPS.values():
        marks = np.argwhere((one[200:] == tuple(bytes.fromhex(colour[1:]))).all(-1))
        left, right = (marks[:, 1] < 672).sum(), (marks[:, 1] > 672).sum()
        assert left > 200 and right > 200, colour  # below the legend, in both panels
