"""`cleanclip convert`: PyTorch checkpoints to workdirs and back, every tensor proved bit for bit.

SOURCE is a checkpoint of OpenAI, open_clip, CleanCLIP or Hugging Face, and DEST a new workdir; or
SOURCE is a workdir, whose newest checkpoint is written to DEST: a .pt or .safetensors file, or a
folder. docs/interop.md has the table of names, and what goes with a checkpoint.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.config import from_json, to_json
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import cache_folder, folder_written_whole
from cleanclip_jax.models.blocks import ACTIVATIONS
from cleanclip_jax.models.variants import find_variant
from cleanclip_jax.run.build import load_weights
from cleanclip_jax.start.start import (
    CLIP_VOCABULARY,
    TOKENIZER,
    foreign_config,
    forwards,
    load_tokenizer,
    vocabulary,
)
from cleanclip_jax.start.torch import verify
from cleanclip_jax.start.torch import write as export
from cleanclip_jax.start.torch.checkpoint import (
    FORMATS,
    SUFFIXES,
    TORCH_SUFFIXES,
    Foreign,
    is_foreign,
    open_foreign,
)
from cleanclip_jax.start.torch.host import load_host, newest_step, save_host
from cleanclip_jax.start.torch.paging import give_back_memory, page_out
from cleanclip_jax.start.torch.reference import check_runnable
from cleanclip_jax.start.torch.resize import resize_positions
from cleanclip_jax.start.torch.safetensors_file import file_order
from cleanclip_jax.start.torch.tensors import derived, load_origin, to_tensors, weights
from cleanclip_jax.text.tokenizer import MERGES_FILE, Tokenizer
from cleanclip_jax.workdir import workdir_path

# Flags for a SOURCE that is a PyTorch checkpoint.
OF_FOREIGN = ("activation", "image_size", "tokenizer", "allow_torchscript")
DTYPES = ("source", "float32", "float16", "bfloat16")


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code, 1 where --verify finds a difference."""
    parser = Parser(prog="cleanclip convert", description=__doc__)
    parser.add_argument("source", type=workdir_path, metavar="SOURCE")
    parser.add_argument("dest", type=workdir_path, metavar="DEST", help="must not exist")
    parser.add_argument("--format", choices=FORMATS, help="PyTorch's side; default: recognised")
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, help="of SOURCE, in place of what its config says"
    )
    parser.add_argument("--image_size", type=int, help="interpolates the position table")
    parser.add_argument("--tokenizer", type=Path, help=f"of SOURCE: a workdir's {TOKENIZER}")
    parser.add_argument("--dtype", choices=DTYPES, default="source", help="of what is exported")
    parser.add_argument("--verify", action="store_true", help="runs both and compares each layer")
    parser.add_argument(
        "--allow_torchscript",
        action="store_true",
        help="reads TorchScript archives, which are programs: loading one can run it",
    )
    asked, overrides = parse(parser, argv)
    if overrides:
        raise UserError(
            f"cleanclip convert takes no config keys, such as {next(iter(overrides))!r}"
        )
    source, dest = asked.source, asked.dest
    if dest.exists() or dest.is_symlink():
        raise UserError(f"{dest} exists: name a new file or folder")
    importing = is_foreign(source)
    if not importing and not source.is_dir():
        raise UserError(f"there is no {source}")
    for name in ("dtype",) if importing else OF_FOREIGN:
        if getattr(asked, name) != parser.get_default(name):
            side = "a workdir" if importing else "a PyTorch checkpoint"
            raise UserError(f"--{name} is for a SOURCE that is {side}")
    if asked.verify and asked.image_size:
        raise UserError("--verify compares with the source, which has no such --image_size")
    try:
        workdir = (bring_in if importing else hand_out)(asked)
    except OSError as error:
        place = error.filename or dest
        raise UserError(f"{dest} can't be written ({place}: {error.strerror})") from None
    if not asked.verify:
        return 0
    model, variables = load_weights(workdir)
    foreign = open_foreign(
        source if importing else dest, asked.format, asked.activation, asked.allow_torchscript
    )
    found = verify.compare(foreign, model, variables)
    print(verify.table(found))
    departed = verify.first_departure(found)
    if departed:
        print(f"beyond {verify.TOLERANCE:g}, and the first is {departed.layer}", file=sys.stderr)
        return 1
    print(f"PyTorch and JAX agree in every layer, within {verify.TOLERANCE:g} of its largest value")
    return 0


def bring_in(asked: Any) -> Path:
    """Makes a workdir of a PyTorch checkpoint, and returns it."""
    dest: Path = asked.dest
    if dest.suffix in SUFFIXES:
        raise UserError(
            f"{asked.source} is a PyTorch checkpoint, so DEST is a workdir: name a folder, not "
            f"{dest.name}; from there it converts to any format"
        )
    foreign = open_foreign(asked.source, asked.format, asked.activation, asked.allow_torchscript)
    if asked.verify:
        check_runnable(foreign.origin.layout)
    print("\n".join(foreign.describe()))
    config, origin = foreign_config(foreign), foreign.origin
    tokenizer = find_tokenizer(asked.tokenizer, foreign, config)
    variables = foreign.variables()
    if asked.image_size not in (None, foreign.numbers.image_size):
        variables = resize_positions(variables, foreign.numbers, asked.image_size)
        print(f"positions interpolated: {foreign.numbers.image_size} to {asked.image_size} pixels")
        config.model.image_size = asked.image_size
    proved = config.model.image_size == foreign.numbers.image_size
    wanted = {name: fingerprint(x) for name, x in foreign.tensors.items()} if proved else {}
    numbers = foreign.numbers
    with folder_written_whole(dest) as folder:
        (folder / "config.json").write_text(to_json(config))
        origin.save(folder)
        if tokenizer is not None:
            tokenizer.save(folder / TOKENIZER)
        save_host(folder, variables)
        del variables
        give_back_memory()
        if proved:
            back = weights(origin.layout, numbers, load_host(folder), origin)
            found = {name: fingerprint(x) for name, x in back}
            found |= {n: fingerprint(x) for n, x in derived(origin.layout, numbers, origin).items()}
            assert found == wanted, "what comes back is not what was read: a fault of this program"
            print(f"{len(found)} tensors, and each comes back bit for bit")
    print(f"written: {dest}")
    return dest


def find_tokenizer(given: Path | None, foreign: Foreign, config: Any) -> Tokenizer | None:
    """Returns the tokenizer that goes with a checkpoint; None, and a line why, where none is known.

    Raises:
      UserError: the given one has another vocabulary or context length.
    """
    v = foreign.numbers
    if given is not None:
        tokenizer = Tokenizer.load(given)
        if (tokenizer.vocab_size, tokenizer.context_length) != (v.vocab_size, v.context_length):
            raise UserError(
                f"{given} has {tokenizer.vocab_size} ids and context length "
                f"{tokenizer.context_length}; {foreign.path} has {v.vocab_size} and "
                f"{v.context_length}"
            )
        config.text.tokenizer = "trained"
        return tokenizer
    if v.vocab_size == CLIP_VOCABULARY and not (cache_folder() / MERGES_FILE).is_file():
        print("tokenizer: CLIP's; its merges file is fetched when the workdir is used")
        return None
    try:
        return load_tokenizer(foreign.path, config)
    except UserError as error:
        print(f"without a tokenizer, so it can't be trained or measured yet: {error}")
        return None


def hand_out(asked: Any) -> Path:
    """Writes a workdir's newest checkpoint for PyTorch; returns the workdir."""
    workdir, dest = asked.source, asked.dest
    config, origin = from_json(workdir / "config.json"), load_origin(workdir)
    format, layout = export.choose_format(dest, asked.format, origin)
    v = dataclasses.replace(
        find_variant(config.model.variant),
        image_size=config.model.image_size,
        context_length=config.text.context_length,
        vocab_size=vocabulary(workdir, config),
    )
    if asked.verify:
        check_runnable(layout)
    step = newest_step(workdir)
    dtype = None if asked.dtype == "source" else asked.dtype
    passes = forwards(config, step)
    tensors = to_tensors(layout, v, towers(workdir), origin, passes, dtype)
    said = export.contract(config.model.variant, v, config.model.activation)
    export.write_foreign(dest, format, layout, tensors, origin, said, v)
    names = list(tensors) if dest.suffix in TORCH_SUFFIXES else file_order(tensors)
    wanted = [(name, fingerprint(tensors[name])) for name in names]
    del tensors
    give_back_memory()
    written = open_foreign(dest, format)
    found = [(name, fingerprint(x)) for name, x in written.tensors.items()]
    assert found == wanted, "what was written is not what was meant: a fault of this program"
    print(f"{workdir} at step {step}: {len(found)} tensors, read back bit for bit")
    print("\n".join(written.describe()))
    print(f"written: {dest}")
    return workdir


def towers(workdir: Path) -> Iterator[dict[str, np.ndarray]]:
    """Gives what `load_host` gives, without a classifier's head, and says so."""
    head = False
    for group in load_host(workdir):
        kept = {path: x for path, x in group.items() if not path.startswith("params/head/")}
        head = head or len(kept) < len(group)
        yield kept
    if head:
        print("not carried over: the run's classifier, which no format of PyTorch's has")


def fingerprint(values: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor's type, shape and a digest of its bits; lets a mapped file's pages go."""
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    digest = hashlib.blake2b(bits.data).digest()
    page_out(values)
    return str(values.dtype), values.shape, digest
