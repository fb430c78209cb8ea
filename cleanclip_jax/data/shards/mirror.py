"""Copies of remote folders of shards in the cache: ArrayRecord reads local files."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from cleanclip_jax.data.paths import reason
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import cache_folder, written_whole
from cleanclip_jax.record import fingerprint_of

log = logging.getLogger(__name__)

CONNECTIONS = 8


def mirror(url: str) -> Path:
    """The local copy of a remote folder's files, fetched unless it is there already.

    Only the folder's own files, not what is in folders below it.

    Raises:
      UserError: the folder or a file cannot be read, or there is no room for the copy.
    """
    # Deferred: local data needs none of it.
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(url)
        listed = [entry for entry in store.ls(root, detail=True) if entry["type"] == "file"]
    except Exception as error:  # each store has errors of its own
        raise UserError(f"{url}: cannot be read ({reason(error)}); check the address.") from error
    entries = {PurePosixPath(entry["name"]).name: entry for entry in listed}
    # The store's own checksums: another content of the same name is another copy.
    state = [
        (name, entries[name]["size"], store.checksum(entries[name]["name"]))
        for name in sorted(entries)
    ]
    folder = cache_folder() / "shards" / fingerprint_of(url=url, state=state)[:32]
    missing = [name for name in entries if not (folder / name).exists()]
    if missing:
        size = sum(entries[name]["size"] or 0 for name in missing)
        log.info(
            "fetching %d files of %s, %.2f GB, to %s, once", len(missing), url, size / 1e9, folder
        )

    def fetch(name: str) -> None:
        with written_whole(folder / name) as part:
            store.get_file(entries[name]["name"], str(part))

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            list(pool.map(fetch, missing))
        except Exception as error:
            pool.shutdown(cancel_futures=True)
            raise UserError(
                f"{url}: cannot be fetched to {folder} ({reason(error)}); the same command goes "
                "on, CLEANCLIP_CACHE names a folder with space."
            ) from error
    folder.mkdir(parents=True, exist_ok=True)
    return folder
