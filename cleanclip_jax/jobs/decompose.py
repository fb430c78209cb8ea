"""`cleanclip decompose`: the prototypes of a ViT's parts, of clean pictures of config.data.train.

By them `evaluate` measures the model repaired as well (docs/defences.md):
--config.evaluation.repair="{'prototypes': 'FILE.npz'}".
"""

from collections.abc import Sequence

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.data.sources import open_source
from cleanclip_jax.errors import UserError
from cleanclip_jax.jobs.of_model import FREE, open_model
from cleanclip_jax.measure.clean_pictures import clean_pictures
from cleanclip_jax.measure.decomposition import Prototypes, check_decomposable
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.workdir import workdir_path


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip decompose", description=__doc__)
    parser.add_argument(
        "--workdir", required=True, type=workdir_path, help="a run, or a PyTorch checkpoint"
    )
    parser.add_argument("--output", required=True, type=workdir_path, help="FILE.npz")
    parser.add_argument("--pictures", type=int, default=10_000, help="clean ones, at most")
    parser.add_argument("--seed", type=int, default=0, help="draws the pictures")
    args, overrides = parse(parser, argv)
    if args.pictures < 1:
        raise UserError(f"--pictures={args.pictures}: it takes a whole number, 1 or more")
    if args.output.suffix != ".npz" or args.output.is_dir():
        raise UserError(f"--output={args.output}: name a file, as prototypes.npz")
    start, config = open_model(args.workdir, overrides, ("data.", *FREE))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    encoder = encoder_from(start, mesh, config)
    check_decomposable(encoder.model)
    source = open_source(config.data.train.to_dict())
    pictures = clean_pictures(config, source, args.pictures, args.seed)
    Prototypes.of(encoder, pictures, config.evaluation.batch_size).save(args.output)
    print(f"written: {args.output}, prototypes of {len(pictures)} pictures")
    return 0
