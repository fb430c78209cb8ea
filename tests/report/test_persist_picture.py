"""The picture of persist: a panel for each protocol that was measured."""

import io
from typing import Any

from PIL import Image

from cleanclip_jax.report import persist_picture
from cleanclip_jax.report.persist_picture import draw

FIGURES = {"asr": {"value": 0.5}, "ca": {"value": 0.8}}


def path(model: str, **more: Any) -> list[dict[str, Any]]:
    return [
        {"protocol": "path", "model": model, "at": at, "figures": FIGURES, **more}
        for at in (0.0, 1.0)
    ]


def test_panels_make_the_picture_higher_and_none_makes_none():
    assert draw([]) is None
    woken = {**FIGURES, "before": {"value": 0.1}}
    tuned = [
        {"protocol": name, "model": "cleaned", "at": 1, "rate": r, "seed": 0, "figures": FIGURES}
        for name in ("retune", "rebound")
        for r in (1e-3, 1e-4)
    ]
    bars = [
        {"protocol": "reactivation", "model": "cleaned", "at": at, "seed": 0, "figures": woken}
        for at in ("trigger", "no trigger")
    ]
    one, four = draw(path("cleaned")), draw([*path("cleaned"), *path("floor"), *tuned, *bars])
    assert one is not None and four is not None
    small, large = (Image.open(io.BytesIO(png)).size for png in (one, four))
    assert small[0] == large[0] == 1344  # 672 CSS pixels, as the page's text
    assert large[1] > 1.5 * small[1]


def test_of_several_rates_the_highest_is_drawn(monkeypatch):
    from matplotlib.axes import Axes

    lines, plot = [], Axes.plot

    def see(axes: Axes, x: Any, y: Any, **look: Any) -> Any:
        lines.append((axes, list(y)))
        return plot(axes, x, y, **look)

    monkeypatch.setattr(Axes, "plot", see)
    rows = []
    for rate, asr in ((1e-3, 0.9), (1e-4, 0.2)):
        for seed, more in ((0, 0.0), (1, 0.1)):
            figures = {"asr": {"value": asr - more}}
            facts = {"protocol": "rebound", "model": "cleaned", "at": 1, "rate": rate}
            rows.append({**facts, "seed": seed, "figures": figures})
    assert persist_picture.draw(rows) is not None
    assert [round(y[0], 6) for _, y in lines] == [85.0]  # the mean over its seeds
