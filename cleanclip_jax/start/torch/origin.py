"""What a PyTorch checkpoint is beside its values; lies in a workdir as interop.json."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cleanclip_jax.errors import UserError
from cleanclip_jax.files import write_whole
from cleanclip_jax.workdir import ORIGIN

_VERSION = 1


@dataclass(frozen=True)
class Origin:
    """What the way back to PyTorch needs.

    Attributes:
      format: openai | open_clip | open_clip_text | cleanclip | huggingface.
      layout: of its names (`names.LAYOUTS`).
      prefix: before every name: 'module.' where it was saved from a parallel module, else ''.
      tensors: the type of each tensor by its name without prefix, in the file's order.
      counters: every num_batches_tracked, before the first step of the run here.
      wrapper: what lies beside its state_dict (epoch, name); None: there is no wrapper.
      files: the JSON files that came with it, by name.
    """

    format: str
    layout: str
    prefix: str
    tensors: dict[str, str]
    counters: dict[str, int] = field(default_factory=dict)
    wrapper: dict[str, Any] | None = None
    files: dict[str, Any] = field(default_factory=dict)

    def save(self, workdir: Path) -> None:
        """Writes interop.json."""
        content = {"version": _VERSION, **dataclasses.asdict(self)}
        write_whole(workdir / ORIGIN, json.dumps(content, indent=1) + "\n")

    def advanced(self, forwards: int) -> "Origin":
        """The same after so many forward passes in training mode."""
        counters = {name: count + forwards for name, count in self.counters.items()}
        return dataclasses.replace(self, counters=counters)


def load_origin(workdir: Path) -> Origin | None:
    """Reads a workdir's interop.json; None where no PyTorch checkpoint is behind the run."""
    path = workdir / ORIGIN
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("version") != _VERSION:
            raise UserError(f"{path} is of another version: convert the checkpoint again")
        return Origin(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): convert the checkpoint again") from None
