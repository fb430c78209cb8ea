"""Pictures of every odd kind that people's datasets hold, made here."""

import functools
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(61), np.arange(83))[:, :, None] + np.array([0, 40, 90])
SMOOTH = (SMOOTH % 200 + PIXELS.repeat(3, 0)[:61].repeat(3, 1)[:, :83] // 8).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """An image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    """The pixels that plain Pillow gives."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def jpegs() -> Iterator[tuple[str, bytes]]:
    """Sound JPEGs: sizes about the edges of blocks, qualities, samplings, scans, spaces."""
    for height, width in ((1, 1), (8, 8), (9, 17), (16, 31), (61, 83)):
        picture = Image.fromarray(np.ascontiguousarray(SMOOTH[:height, :width]))
        for quality in (5, 75, 100):
            for sampling in ("4:4:4", "4:2:2", "4:2:0"):
                for more in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
                    options = {"quality": quality, "subsampling": sampling, **more}
                    yield f"{height}x{width} {options}", encoded(picture, "JPEG", **options)
        yield f"{height}x{width} grey", encoded(picture.convert("L"), "JPEG")
        yield f"{height}x{width} RGB", encoded(picture, "JPEG", keep_rgb=True)
        yield f"{height}x{width} CMYK", encoded(picture.convert("CMYK"), "JPEG")


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any header, true or not."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def _resized_header(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG that says it has another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


@functools.cache
def good() -> dict[str, bytes]:
    """Odd, but pictures: name → file."""
    picture = Image.fromarray(PIXELS)
    others = [Image.fromarray(255 - PIXELS), Image.fromarray(PIXELS // 2)]
    alpha = np.arange(PIXELS[:, :, 0].size, dtype=np.uint16).astype(np.uint8)
    alpha = Image.fromarray(alpha.reshape(PIXELS.shape[:2]))
    rgba = picture.copy()
    rgba.putalpha(alpha)
    palette = picture.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    moving = {"save_all": True, "append_images": others, "duration": 50}
    deep = (PIXELS.astype(np.uint16) << 8 | 0x7F).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    jpeg = encoded(picture, "JPEG", quality=95)
    return {
        "a plain jpeg": jpeg,
        "progressive": encoded(picture, "JPEG", progressive=True),
        "cmyk": encoded(picture.convert("CMYK"), "JPEG"),
        "grey": encoded(picture.convert("L"), "JPEG"),
        "turned by exif": encoded(picture, "JPEG", exif=exif),
        "broken exif": encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
        "a colour profile": encoded(picture, "JPEG", icc_profile=b"\1" * 5000),
        "junk after the end": jpeg + b"<!-- -->" * 50,
        "rgba": encoded(rgba),
        "grey and alpha": encoded(rgba.convert("LA")),
        "palette": encoded(palette),
        "a transparent colour": encoded(palette, transparency=3),
        "a transparent palette": encoded(palette, transparency=bytes(range(256))),
        "one bit": encoded(picture.convert("1")),
        "sixteen-bit rgb": _png(PIXELS.shape[1], PIXELS.shape[0], 16, 2, rows),
        "animated gif": encoded(picture, "GIF", **moving),
        "animated png": encoded(picture, "PNG", **moving),
        "animated webp": encoded(picture, "WEBP", lossless=True, **moving),
        "tiff": encoded(picture, "TIFF", compression="tiff_lzw"),
        "bmp": encoded(picture, "BMP"),
        "a line, just": encoded(Image.fromarray(PIXELS[:1, :1].repeat(500, 1))),
    }


@functools.cache
def bad() -> dict[str, bytes]:
    """No pictures, or such as nobody should decode: name → file."""
    jpeg = encoded(Image.fromarray(SMOOTH), "JPEG")
    png = encoded(Image.fromarray(PIXELS))
    return {
        "nothing": b"",
        "a page": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "zeros": bytes(1000),
        "a jpeg's start": jpeg[:100],
        "half a jpeg": jpeg[: len(jpeg) // 2],
        "half a png": png[: len(png) // 2],
        "half a gif": encoded(Image.fromarray(PIXELS), "GIF")[:900],
        "half a webp": encoded(Image.fromarray(PIXELS), "WEBP", lossless=True)[:900],
        "a png bomb": _png(30_000, 30_000, 8, 2, bytes(1000)),
        "a small png bomb": _png(10_000, 9_000, 1, 0, bytes(9_000 * 1_251)),
        "a jpeg bomb": _resized_header(jpeg, 65_000, 65_000),
        "a gif bomb": b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
        "a line of pixels": encoded(Image.new("RGB", (1, 60_000))),
        "no width": _png(0, 10, 8, 2, b""),
        "no height": _resized_header(jpeg, 83, 0),
        "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    }
