"""Pictures and their captions by a JSON file: COCO's, or Karpathy's of COCO and Flickr30k."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from cleanclip_jax.data.paths import local, parent, read_bytes
from cleanclip_jax.data.table.columns import batch_of
from cleanclip_jax.data.table.table import Table, make_table
from cleanclip_jax.errors import UserError, unknown
from cleanclip_jax.shapes import parse_json

BATCH_ROWS = 8192
_COCO = {"images": [{"id": int | str, "file_name": str}]}
_COCO |= {"annotations": [{"image_id": int | str, "caption": str}]}
_KARPATHY = {"split": str, "filename": str, "filepath?": str | None, "sentences": [{"raw": str}]}
_SHAPES = (_COCO, {"images": [_KARPATHY]})


def open_annotations(
    usual: str,
    path: str | Path,
    root: str | Path | None = None,
    split: str | Sequence[str] | None = None,
    rows: int | Sequence[int | None] | None = None,
) -> Table:
    """A file's pictures, each a record with all of its captions.

    Args:
      usual: the split of Karpathy's file where none is named.
      path: captions_train2017.json as COCO has it, or dataset_coco.json as Karpathy has.
      root: folder of the pictures; the file's if None.
      split: of Karpathy's file, one or several; COCO's is one split.
      rows: as in table.open_table.
    """
    splits = None if split is None else (split,) if isinstance(split, str) else tuple(split)
    file = local(path)
    folder = parent(file) if root is None else local(root)
    reader, columns = AnnotationsReader(splits or (), usual), ("image", "caption", None)
    return make_table([file], reader, columns, (None, rows, None), root=folder)


open_json = partial(open_annotations, "train")


@dataclass(frozen=True)
class AnnotationsReader:
    """Reads pictures' paths and lists of captions, in the order of the file's pictures.

    Attributes:
      splits: of Karpathy's file; `usual` if none are.
    """

    splits: tuple[str, ...]
    usual: str
    kind: str = "json"

    def columns(self, file: str) -> list[str]:
        return ["image", "caption"]

    def batches(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        pictures = iter(self._pictures(file).items())
        while some := list(islice(pictures, BATCH_ROWS)):
            values = {"image": [name for name, _ in some], "caption": [list_ for _, list_ in some]}
            names = [f"picture {name}" for name, _ in some]
            yield batch_of(
                {name: values[name] for name in columns}, [None] * len(some), names, lists="caption"
            )

    def _pictures(self, file: str) -> dict[str, list[str]]:
        """Pictures by path, each once, and the captions of each."""
        todo = "it is neither COCO's captions nor Karpathy's"
        content = parse_json(file, read_bytes(file), _SHAPES, todo)
        pictures: dict[str, list[str]] = {}
        if "annotations" in content:
            if self.splits:
                raise UserError(f"{file}: COCO's file is one split; leave split={self.splits} out")
            names = {image["id"]: image["file_name"] for image in content["images"]}
            pictures = {name: [] for name in names.values()}
            for note in content["annotations"]:
                if (name := names.get(note["image_id"])) is None:
                    which = note["image_id"]
                    raise UserError(f"{file}: a caption is of picture {which!r}, which it lacks")
                pictures[name].append(note["caption"])
        else:
            wanted, there = self.splits or (self.usual,), {i["split"] for i in content["images"]}
            for split in wanted:
                if there and split not in there:
                    raise unknown(f"{file}: split", split, sorted(there))
            for image in content["images"]:
                if image["split"] in wanted:
                    name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
                    texts = [sentence["raw"] for sentence in image["sentences"]]
                    pictures.setdefault(name, []).extend(texts)
        if not pictures:
            raise UserError(f"{file}: there is no picture in it")
        return pictures
