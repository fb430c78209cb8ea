"""A scan of pairs from its passes to its files."""

from pathlib import Path

from cleanclip_jax.detect.findings import SHEET, write_findings
from cleanclip_jax.detect.groups import find_groups
from cleanclip_jax.detect.opened import Opened
from cleanclip_jax.detect.scan import scan
from cleanclip_jax.detect.scan_settings import Settings
from cleanclip_jax.files import write_whole
from cleanclip_jax.process import is_first
from cleanclip_jax.report.detected import group_sheet

LISTED = 1000  # pairs in top.csv


def scan_pairs(
    folder: Path, opened: Opened, settings: Settings, by: str, drop: float, top: int = LISTED
) -> None:
    """Scores pairs and writes what `detect.findings` names; goes on where it was stopped.

    Args:
      by: the detector whose highest scores are dropped, and by which groups are made.
      drop: share of the scored pairs.
      top: how many are listed.
    """
    scores = scan(opened.passes, opened.data, settings, opened.reading, folder)
    encoder = opened.passes[0].open()
    groups = find_groups(encoder, opened.data, scores, settings, by, opened.reading)
    if is_first():
        size = encoder.model.variant.image_size
        sheet = group_sheet(groups, opened.data, size, opened.reading)
        if sheet is not None:
            write_whole(folder / SHEET, sheet)
        write_findings(folder, opened, settings, scores, groups, by, drop, top)
