"""What a PyTorch checkpoint is beside its values; lies in a workdir as interop.json."""

import dataclasses
import json
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import read_json, write_whole
from cleanclip_jax.keys import REQUIRED, Key, choice, take, text
from cleanclip_jax.models.variants import Variant
from cleanclip_jax.start.torch.names import LAYOUTS, constants, rules
from cleanclip_jax.start.torch.unpickle import STORAGES
from cleanclip_jax.workdir import ORIGIN, Workdir

_VERSION = 1
FORMATS = ("openai", "open_clip", "open_clip_text", "cleanclip", "huggingface")


def _is_table(*kinds: type, words: Container[str] | None = None) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict)
        and all(isinstance(x, kinds) and (words is None or x in words) for x in value.values())
    )


_KEYS = {
    "format": replace(choice(None, " | ".join(FORMATS)), default=REQUIRED),
    "layout": replace(choice(None, " | ".join(LAYOUTS)), default=REQUIRED),
    "prefix": Key(REQUIRED, "a text", lambda v: isinstance(v, str)),
    "tensors": Key(REQUIRED, "types by name", _is_table(str, words=STORAGES.values())),
    "counters": Key({}, "numbers by name", _is_table(int)),
    "wrapper": Key(None, "values by name", _is_table(int, float, str)),
    "files": Key({}, "dictionaries by name", _is_table(dict)),
    "key": text("state_dict"),
}


@dataclass(frozen=True)
class Origin:
    """What the way back to PyTorch needs.

    Attributes:
      format: openai | open_clip | open_clip_text | cleanclip | huggingface.
      layout: of its names (`names.LAYOUTS`).
      prefix: before every name: 'module.' where it was saved from a parallel module.
      tensors: the type of each tensor by its name without prefix, in the file's order.
      counters: every num_batches_tracked, before the first step of the run here.
      wrapper: what lies beside its state_dict (epoch, name); None: there is no wrapper.
      files: the JSON files that came with it, by name.
      key: where in its file the state dict lay, where there is a wrapper.
    """

    format: str
    layout: str
    prefix: str
    tensors: dict[str, str]
    counters: dict[str, int] = field(default_factory=dict)
    wrapper: dict[str, Any] | None = None
    files: dict[str, Any] = field(default_factory=dict)
    key: str = "state_dict"

    def save(self, workdir: Path) -> None:
        """Writes interop.json."""
        content = {"version": _VERSION, **dataclasses.asdict(self)}
        write_whole(workdir / ORIGIN, json.dumps(content, indent=1) + "\n")

    def check(self, workdir: Path, v: Variant) -> None:
        """Refuses what names other tensors than a checkpoint of these numbers has."""
        names = {rule.name for rule in rules(self.layout, v)}
        wrong = names - self.tensors.keys()
        wrong |= self.tensors.keys() - names - constants(self.layout, v).keys()
        if wrong:
            raise UserError(
                f"{workdir / ORIGIN} is of another model ({min(wrong)}): convert its source again"
            )

    def advanced(self, forwards: int) -> "Origin":
        """The same after so many forward passes in training mode."""
        counters = {name: count + forwards for name, count in self.counters.items()}
        return dataclasses.replace(self, counters=counters)


def load_origin(workdir: Path) -> Origin | None:
    """Reads a workdir's interop.json; None where no PyTorch checkpoint is behind the run."""
    path = workdir / ORIGIN
    if not Workdir(workdir).has(ORIGIN):
        return None
    content = read_json(path)
    if content.pop("version", None) != _VERSION:
        raise UserError(f"{path} is of another version: convert the checkpoint again")
    return Origin(**take(str(path), content, _KEYS))
