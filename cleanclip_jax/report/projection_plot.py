"""Embeddings on a plane as PNG bytes: one row a model, PCA and t-SNE side by side."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from cleanclip_jax.report.plots import DPI, LOOKS, STYLE, WIDTH, to_png

# What a dot can be, with marker, colour and place in the pile: the last are drawn last.
GROUPS = {
    "clean, other classes": ("o", "#8c959f"),
    "triggered, other classes": ("^", LOOKS[1][0]),
    "clean, target class": ("s", LOOKS[0][0]),
    "triggered, target class": ("D", LOOKS[3][0]),
}


@dataclass(frozen=True)
class Scatter:
    """Places of embeddings, and what the panel is called."""

    title: str
    places: Float[np.ndarray, "m 2"]


def projection_figure(
    models: Mapping[str, tuple[Sequence[Scatter], Sequence[str]]], height: float = 2.7
) -> bytes:
    """Draws each model's panels in a row.

    Args:
      models: name → its panels, and the group of each place, of `GROUPS`.
      height: of a row, in inches.
    """
    columns = max(len(panels) for panels, _ in models.values())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height * len(models) + 0.6), dpi=DPI, layout="constrained")
        grid = figure.subplots(len(models), columns, squeeze=False)
        for axes_row, (name, (panels, groups)) in zip(grid, models.items(), strict=True):
            kinds = np.array(groups)
            for axes, panel in zip(axes_row, panels, strict=True):
                for order, (group, (marker, colour)) in enumerate(GROUPS.items()):
                    x, y = panel.places[kinds == group].T
                    axes.plot(
                        *(x, y),
                        marker,
                        color=colour,
                        label=group,
                        markersize=3.2,
                        markeredgewidth=0.3,
                        zorder=2 + order,
                    )
                axes.set_title(panel.title, fontsize=9)
                # Neither method's axes have a unit.
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
            lines = textwrap.wrap(name, 34, max_lines=2, placeholder=" …")
            axes_row[0].set_ylabel("\n".join(lines), fontsize=9)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, markerscale=1.8)
        return to_png(figure)
