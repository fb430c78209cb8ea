"""Files and folders at addresses that fsspec opens. Loaded only where data is remote.

Every function raises OSError with the address for what cannot be read, whatever the store raised.
"""

import errno
import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec

from cleanclip_jax.errors import reason, refusing
from cleanclip_jax.files import cache_folder, written_whole
from cleanclip_jax.record import fingerprint_of

log = logging.getLogger(__name__)

Result = TypeVar("Result")
# Where stores keep a checksum of a file's content, or a tag that changes with it.
CHECKSUMS = ("md5Hash", "crc32c", "ETag", "etag", "Content-MD5", "content_md5", "Digest")
BLOCK_BYTES = 8 << 20
CONNECTIONS = 8


def _on(url: str, action: Callable[[Any, str], Result]) -> Result:
    try:
        return action(*fsspec.core.url_to_fs(url))
    except FileNotFoundError as error:
        # fsspec says so of whatever a web server refuses.
        status = getattr(error.__cause__, "status", 404)
        text = "No such file" if status == 404 else f"the server answers {status}"
        raise FileNotFoundError(errno.ENOENT, text, url) from error
    except Exception as error:  # also a store's: of a login, a connection, a missing package
        raise OSError(errno.EIO, f"{type(error).__name__}: {reason(error)}", url) from error


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """A file, or the bytes of it from `start` to before `end`."""
    return _on(url, lambda store, name: store.cat_file(name, start=start, end=end))


def open_binary(url: str) -> Any:
    """A file for reading and seeking, to be closed."""
    return _on(url, lambda store, name: store.open(name, "rb", block_size=BLOCK_BYTES))


def is_folder(url: str) -> bool:
    """Whether there is a folder of that name."""
    return _on(url, lambda store, name: store.isdir(name))


def matching(pattern: str) -> list[str]:
    """The addresses that a pattern stands for."""
    return _on(pattern, lambda store, name: [store.unstrip_protocol(f) for f in store.glob(name)])


def files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Yields (path from the folder, size) of all files below it, folder by folder, by name."""
    root, files = _on(folder, lambda store, name: (name, store.find(name, detail=True)))
    if not files:
        raise FileNotFoundError(errno.ENOENT, "No such folder, or an empty one", folder)
    # "a b/1" comes after "a/1".
    for name in sorted(files, key=lambda name: name.split("/")):
        yield name.removeprefix(root.rstrip("/")).lstrip("/"), files[name]["size"]


def digest(url: str) -> str:
    """The store's checksum of a file; of one without, a sha256: it is read whole, each time."""
    about = _on(url, lambda store, name: store.info(name))
    for key in CHECKSUMS:
        if about.get(key):
            return f"{key} {about[key]} of {about.get('size')} bytes"
    with open_binary(url) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetched(url: str) -> Path:
    """The local copy, in the cache, of the files in a folder: fetched unless they are there.

    Not what is in folders below it. It raises UserError in place of OSError.
    """
    with refusing(f"{url}: cannot be read", "check the address", OSError):
        store, listed = _on(url, lambda store, name: (store, store.ls(name, detail=True)))
    entries = {PurePosixPath(e["name"]).name: e for e in listed if e["type"] == "file"}
    # The store's checksums: another content of the same name is another copy.
    state = [
        (name, entries[name]["size"], store.checksum(entries[name]["name"]))
        for name in sorted(entries)
    ]
    folder = cache_folder() / "shards" / fingerprint_of(url=url, state=state)[:32]
    missing = [name for name in entries if not (folder / name).exists()]
    if missing:
        size = sum(entries[name]["size"] or 0 for name in missing) / 1e9
        log.info("fetching %d files of %s, %.2f GB, to %s, once", len(missing), url, size, folder)

    def fetch(name: str) -> None:
        with written_whole(folder / name) as part:
            store.get_file(entries[name]["name"], str(part))

    todo = "the same command goes on, CLEANCLIP_CACHE names a folder with space"
    with (
        refusing(f"{url}: cannot be fetched to {folder}", todo, Exception),
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        list(pool.map(fetch, missing))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
