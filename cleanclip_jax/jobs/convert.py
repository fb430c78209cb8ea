"""`cleanclip convert`: PyTorch checkpoints to workdirs and back, every tensor proved bit for bit.

SOURCE is a checkpoint of OpenAI, open_clip, CleanCLIP or Hugging Face, and DEST a new workdir; or
SOURCE is a workdir, whose newest checkpoint is written to DEST: a .pt or .safetensors file, or a
folder. docs/interop.md has the table of names, and what goes with a checkpoint.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.config import from_json, to_json
from cleanclip_jax.errors import UserError, reason
from cleanclip_jax.files import cache_folder, check_plain, folder_written_whole
from cleanclip_jax.models.blocks import ACTIVATIONS
from cleanclip_jax.models.clip import Variant, variant_of
from cleanclip_jax.start.start import RunStart, clip_tokenizer, forwards
from cleanclip_jax.start.store import load_saved, save_first
from cleanclip_jax.start.torch import SUFFIXES, TORCH_SUFFIXES, is_torch_checkpoint
from cleanclip_jax.start.torch.checkpoint import Checkpoint, open_checkpoint
from cleanclip_jax.start.torch.origin import FORMATS, Origin, load_origin
from cleanclip_jax.start.torch.recognise import in_words
from cleanclip_jax.start.torch.resize import resize_positions
from cleanclip_jax.start.torch.tensors import each_tensor, to_tensors
from cleanclip_jax.start.torch.write import check_holds, choose_format, contract, write_checkpoint
from cleanclip_jax.text.tokenizer import MERGES_FILE, Tokenizer
from cleanclip_jax.workdir import TOKENIZER, workdir_path

# Flags for a SOURCE that is a PyTorch checkpoint.
OF_CHECKPOINTS = ("key", "image_size", "tokenizer")
DTYPES = ("source", "float32", "float16", "bfloat16")


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip convert", description=__doc__)
    parser.add_argument("source", type=workdir_path, metavar="SOURCE")
    parser.add_argument("dest", type=workdir_path, metavar="DEST", help="must not exist")
    parser.add_argument("--format", choices=FORMATS, help="PyTorch's side; default: recognised")
    parser.add_argument(
        "--activation", choices=ACTIVATIONS, help="of SOURCE, in place of what its config says"
    )
    parser.add_argument("--key", help="where in SOURCE the state dict lies, as state_dict_ema")
    parser.add_argument("--image_size", type=int, help="interpolates the position table")
    parser.add_argument(
        "--tokenizer", type=workdir_path, help=f"of SOURCE: a workdir's {TOKENIZER}"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="source", help="of what is exported")
    args, overrides = parse(parser, argv)
    if overrides:
        raise UserError(
            f"cleanclip convert takes no config keys, such as {next(iter(overrides))!r}"
        )
    source, dest = args.source, args.dest
    if dest.exists() or dest.is_symlink():
        raise UserError(f"{dest} exists: name a new file or folder")
    importing = is_torch_checkpoint(source)
    if not source.exists():
        raise UserError(f"there is no {source}")
    if not importing and not source.is_dir():
        check_plain(source)
    for name in ("dtype",) if importing else OF_CHECKPOINTS:
        if getattr(args, name) != parser.get_default(name):
            side = "a workdir" if importing else "a PyTorch checkpoint"
            raise UserError(f"--{name} is for a SOURCE that is {side}")
    try:
        (bring_in if importing else hand_out)(args)
    except OSError as error:
        place = Path(os.fsdecode(error.filename or dest)).absolute()
        if source.absolute() in (place, *place.parents):
            raise UserError(f"{source} can't be read ({place}: {reason(error)})") from None
        raise UserError(f"{dest} can't be written ({place}: {reason(error)})") from None
    return 0


def bring_in(args: Any) -> None:
    """Makes a workdir of a PyTorch checkpoint."""
    dest: Path = args.dest
    if dest.suffix in SUFFIXES:
        raise UserError(
            f"{args.source} is a PyTorch checkpoint, so DEST is a workdir: name a folder, not "
            f"{dest.name}; from there it converts to any format"
        )
    checkpoint = open_checkpoint(args.source, args.format, args.activation, args.key)
    print("\n".join(checkpoint.describe()))
    config, origin, v = checkpoint.config(), checkpoint.origin, checkpoint.numbers
    tokenizer = find_tokenizer(args.tokenizer, checkpoint, config)
    variables = checkpoint.variables()
    resized = args.image_size not in (None, v.image_size)
    if resized:
        variables = resize_positions(variables, v, args.image_size)
        print(f"positions interpolated: {v.image_size} to {args.image_size} pixels")
        config.model.image_size = args.image_size
    with folder_written_whole(dest) as folder:
        (folder / "config.json").write_text(to_json(config))
        origin.save(folder)
        if tokenizer is not None:
            tokenizer.save(folder / TOKENIZER)
        save_first(folder, variables)
        del variables
        if not resized:
            back = each_tensor(origin.layout, v, load_saved(folder)[1], origin)
            prove_same(back, checkpoint.tensors)
            print(f"{len(checkpoint.tensors)} tensors, and each comes back bit for bit")
    print(f"written: {dest}")


def find_tokenizer(given: Path | None, checkpoint: Checkpoint, config: Any) -> Tokenizer | None:
    """Returns the tokenizer that goes with a checkpoint; None, and a line why, where none is known.

    A given one with another vocabulary or context length is refused.
    """
    v = checkpoint.numbers
    beside = checkpoint.path / TOKENIZER
    if given is None and not checkpoint.has_clips_vocabulary and beside.is_file():
        try:
            return find_tokenizer(beside, checkpoint, config)
        except UserError as error:
            print(f"not taken: {error}")
    if given is not None:
        tokenizer = Tokenizer.load(given)
        if (tokenizer.vocab_size, tokenizer.context_length) != (v.vocab_size, v.context_length):
            raise UserError(
                f"{given} has {tokenizer.vocab_size} ids and context length "
                f"{tokenizer.context_length}; {checkpoint.path} has {v.vocab_size} and "
                f"{v.context_length}"
            )
        config.text.tokenizer = "trained"
        return tokenizer
    if checkpoint.has_clips_vocabulary and not (cache_folder() / MERGES_FILE).is_file():
        print("tokenizer: CLIP's; its merges file is fetched when the workdir is used")
        return None
    try:
        return clip_tokenizer(checkpoint.path, config)
    except UserError as error:
        print(f"without a tokenizer, so it can't be trained or measured yet: {error}")
        return None


def hand_out(args: Any) -> None:
    """Writes a workdir's newest checkpoint for PyTorch."""
    workdir, dest = args.source, args.dest
    config, origin = from_json(workdir / "config.json"), load_origin(workdir)
    start, activation = RunStart(workdir), config.model.activation
    if args.activation not in (None, activation):
        raise UserError(f"{workdir} was trained with {activation}, not {args.activation}")
    named = args.activation is not None
    format, layout, v = written_as(dest, config, start.vocab_size, origin, args.format, named)
    tokenizer = start.tokenizer.as_json() if config.text.tokenizer == "trained" else None
    if origin is not None:
        origin.check(workdir, v)
    step, variables = load_saved(workdir)
    if variables["params"].pop("head", None) is not None:
        print("not carried over: the run's classifier, which no format of PyTorch's has")
    dtype = None if args.dtype == "source" else args.dtype
    tensors = to_tensors(layout, v, variables, origin, forwards(config, step), dtype)
    del variables
    settings = contract(in_words(v), v, activation)
    write_checkpoint(dest, format, layout, tensors, origin, settings, v, tokenizer)
    written = open_checkpoint(dest, format)
    prove_same(written.tensors.items(), tensors, ordered=dest.suffix in TORCH_SUFFIXES)
    print(f"{workdir} at step {step}: {len(tensors)} tensors, read back bit for bit")
    print("\n".join(written.describe()))
    if tokenizer is not None:
        place = workdir / TOKENIZER if dest.suffix in SUFFIXES else dest / TOKENIZER
        print(
            f"its tokenizer is not CLIP's: {place}, for tokenizers.Tokenizer.from_file; that of a "
            "folder is AutoTokenizer's of transformers and get_tokenizer('local-dir:...')'s of "
            "open_clip as well"
        )
    print(f"written: {dest}")


def written_as(
    dest: Path,
    config: ConfigDict,
    vocab_size: int,
    origin: Origin | None,
    format: str | None = None,
    named: bool = False,
) -> tuple[str, str, Variant]:
    """The format, the layout and the numbers that a model is written in for PyTorch.

    Args:
      format: that the user wants; None: the source's, or by the ending of `dest`.
      named: whether the user named the activation.

    Raises:
      UserError: programs of that format would build another model.
    """
    format, layout = choose_format(dest, format, origin)
    v = dataclasses.replace(
        variant_of(config.model.variant),
        image_size=config.model.image_size,
        context_length=config.text.context_length,
        vocab_size=vocab_size,
    )
    named = named or (origin is not None and origin.format == format)
    check_holds(format, v, config.model.activation, named)
    return format, layout, v


def prove_same(
    back: Iterable[tuple[str, np.ndarray]],
    wanted: Mapping[str, np.ndarray],
    ordered: bool = True,
) -> None:
    """Raises unless `back` has the names, types, shapes and bits of `wanted`, in the same order."""
    names, wrong = [], []
    for name, tensor in back:
        names.append(name)
        if name not in wanted or not _same(tensor, wanted[name]):
            wrong.append(name)
    wrong += wanted.keys() - set(names)
    if wrong or (ordered and names != list(wanted)):
        raise RuntimeError(
            f"{(wrong or ['the order'])[0]} is not what it was ({len(wrong)} of {len(wanted)} "
            "tensors): a fault of this program; do not use what was written"
        )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    bits = [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits[0], bits[1])
