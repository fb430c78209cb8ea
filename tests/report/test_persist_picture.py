"""The picture of what may bring a backdoor back."""

import io

from helpers.persist_rows import ROWS
from PIL import Image

from cleanclip_jax.report.persist_picture import draw


def test_a_panel_a_protocol():
    png = draw(ROWS)
    assert png is not None
    with Image.open(io.BytesIO(png)) as whole:
        high = whole.height
    few = draw([row for row in ROWS if row["protocol"] in ("before", "path")])
    assert few is not None
    with Image.open(io.BytesIO(few)) as one:
        assert one.height < high
    assert draw([row for row in ROWS if row["protocol"] == "before"]) is None
