"""Pictures that triggers are made of: read, bounded, and known again by their digests."""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_bytes, user_path
from cleanclip_jax.views.decode import BadRecord, decode

MOST_SIDE = 4096  # pixels of a patch's file, or of a pattern's

# Of a path: the content and its digest; a UserError where it is no such file.
Reader = Callable[[str], tuple[np.ndarray, str]]


def digest(image: bytes | np.ndarray) -> str:
    """Sixteen hexadecimal digits that tell a picture's bytes from others'."""
    data = image if isinstance(image, bytes) else b"%r" % (image.shape,) + image.tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def read_pattern(path: str) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Reads a picture file as RGB; returns it and the digest of its bytes."""
    where = "config.attack.trigger.file"
    try:
        content = read_bytes(user_path(path))
        picture = decode(content, path)
    except BadRecord as error:
        raise UserError(f"{where}: {error}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}; check the path.") from error
    if max(picture.shape) > MOST_SIDE:
        height, width = picture.shape[:2]
        raise UserError(
            f"{where}: {path} has {width} x {height} pixels: at most {MOST_SIDE} a side are read"
        )
    return picture, digest(content)


def read_patch(path: str) -> tuple[UInt8[np.ndarray, "s s 3"], str]:
    """Reads the file of a patch, which is square."""
    picture, content = read_pattern(path)
    if picture.shape[0] != picture.shape[1]:
        raise UserError(
            f"config.attack.trigger.file: {path} has {picture.shape[1]} x {picture.shape[0]} "
            "pixels, and a patch is square: cut it"
        )
    return picture, content


def same_file(option: str, given: Mapping[str, Any], read: Reader) -> str:
    """The digest of an option's file: a manifest holds it, so that another file is noticed."""
    path, planned = given[option], given[f"{option}_digest"]
    content = read(path)[1]
    if planned not in (None, content):
        raise UserError(
            f"config.attack.trigger.{option}: {path} is not the file of the manifest: its digest "
            f"is {content}, not {planned}; bring that file back."
        )
    return content


@lru_cache(maxsize=8)
def picture_of(
    file: str, file_digest: str | None, height: int, width: int, channels: str = "rgb"
) -> Float32[np.ndarray, "{height} {width} 3"]:
    """A file's picture in [0, 1], resized (Pillow bicubic) where its size is another.

    Args:
      file_digest: what the file has to have; None: any.
      channels: 'bgr': red and blue are swapped in the file.
    """
    same_file("file", {"file": file, "file_digest": file_digest}, read_pattern)
    picture = Image.fromarray(read_pattern(file)[0])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(picture)[:, :, :: -1 if channels == "bgr" else 1]
    made = values.astype(np.float32) / np.float32(255)
    made.setflags(write=False)
    return made


def made_elsewhere(folder: str, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The triggered version of a clean picture: the file in `folder` that has its `digest`."""
    name = f"{digest(image)}.png"
    if not (path := user_path(folder) / name).is_file():
        raise UserError(
            f"config.attack.trigger.folder: {folder} has no {name}, the triggered version of a "
            "picture that is to have one; make it, or leave its pair out."
        )
    picture, _ = read_pattern(str(path))
    if picture.shape != image.shape:
        raise UserError(
            f"config.attack.trigger.folder: {path} is {picture.shape[1]} x {picture.shape[0]} "
            f"pixels, and its clean picture {image.shape[1]} x {image.shape[0]}; make it that size."
        )
    return picture
