"""`cleanclip detect pictures`: scores pictures by how little they mind the text (BDetCLIP).

Without --source they are the run's labelled test pictures, clean and with its trigger, and the
figures say how well their scores part the two. OUTPUT/pictures.csv has the scores, higher for
suspicious, the highest first; with --clean, pictures that are known to be clean, which are flagged.
"""

from collections.abc import Sequence

from cleanclip_jax.args import Parser, parse
from cleanclip_jax.detect.picture_scan import (
    FOUND,
    PICTURES,
    calibrated,
    open_detector,
    score_pictures,
    write_pictures,
)
from cleanclip_jax.errors import UserError
from cleanclip_jax.files import writing
from cleanclip_jax.jobs.detect_pairs import read_source
from cleanclip_jax.jobs.of_model import open_model
from cleanclip_jax.measure.encoder import encoder_from
from cleanclip_jax.process import add_flags, begin, is_first
from cleanclip_jax.report.detected import FOLDER
from cleanclip_jax.sharding import make_mesh
from cleanclip_jax.workdir import workdir_path


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser("cleanclip detect pictures", description=__doc__)
    parser.add_argument(
        "--workdir", required=True, type=workdir_path, help="a run, or a PyTorch checkpoint"
    )
    parser.add_argument("--source", help="pictures to score: {'kind': 'folder', 'path': ...}")
    parser.add_argument("--clean", help="a source of clean pictures, for the threshold")
    parser.add_argument(
        "--false_positives", type=float, default=0.01, help="share of them that it flags (0.01)"
    )
    parser.add_argument(
        "--prompts", type=workdir_path, help='descriptions, {"class": ["a text", ...]}, as JSON'
    )
    parser.add_argument("--seed", type=int, default=0, help="draws the unrelated sentences (0)")
    parser.add_argument("--output", type=workdir_path, help="a folder; default: WORKDIR/detect")
    add_flags(parser)
    args, overrides = parse(parser, argv)
    begin(args, 60)
    if not 0 < args.false_positives < 1:
        raise UserError(f"--false_positives={args.false_positives}: give a share between 0 and 1")
    if args.seed < 0:
        raise UserError(f"--seed={args.seed}: give 0 or more")
    source, clean = read_source("source", args.source), read_source("clean", args.clean)
    start, config = open_model(args.workdir, overrides)
    if args.output is None and start.path.is_file():
        raise UserError(f"{args.workdir} is no workdir: name a folder with --output=FOLDER")
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    encoder = encoder_from(start, mesh, config)
    detector, labelled = open_detector(encoder, config, args.prompts, args.seed)
    if clean is not None:
        detector = calibrated(detector, config, clean, args.false_positives)
    scored = score_pictures(detector, config, labelled, source)
    folder = args.output or args.workdir / FOLDER
    if is_first():
        with writing(folder):
            results = write_pictures(folder, scored, detector, start.identity)
        print(f"{results['pictures']} pictures, {results['milliseconds_each']:.2f} ms each")
        for name, figure in results["figures"].items():
            print(f"  {name:<14} {figure['value']}  {figure['definition']}")
        if results["flagged"] is not None:
            print(
                f"{results['flagged']} are flagged, from a score of {results['threshold']:.4g} on"
            )
        print(f"written: {folder / PICTURES}, {folder / FOUND}")
    return 0
