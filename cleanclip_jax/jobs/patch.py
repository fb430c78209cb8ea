"""`cleanclip patch`: optimises a trigger on a surrogate, as BadCLIP does (arXiv 2311.12075).

The surrogate is config.start, the patch config.patch, the pairs config.data.train: docs/attacks.md.
OUTPUT.png is the trigger {'name': 'patch', 'file': 'OUTPUT.png'}; beside it lie OUTPUT.npy, before
rounding, and OUTPUT.json. A command that was stopped goes on where it was.
"""

from collections.abc import Sequence

from cleanclip_jax.args import Parser, apply, parse
from cleanclip_jax.config import load
from cleanclip_jax.process import keep_compiled, keep_memory
from cleanclip_jax.report.tables import with_interval
from cleanclip_jax.run.checked_patch import check_patch
from cleanclip_jax.run.patching import optimise
from cleanclip_jax.workdir import workdir_path

TEXT_LOSSES = {
    "contrastive": "contrastive, as the original: it does not prefer the target by itself",
    "classes": "classes: the target among the prompts of all classes",
}


def main(argv: Sequence[str]) -> int:
    """Runs the job; returns its exit code."""
    parser = Parser(prog="cleanclip patch", description=__doc__)
    parser.add_argument("--config", required=True, help="configs/FILE.py[:arg]")
    parser.add_argument("--output", required=True, type=workdir_path, help="a new .png file")
    parser.list_keys()
    args, overrides = parse(parser, argv)
    keep_memory()
    keep_compiled()
    checked = check_patch(apply(load(args.config), overrides), args.output)
    print(f"text loss: {TEXT_LOSSES[checked.loss.text_loss]}")
    result = optimise(checked)
    last = {name: value for name, value in result["curve"][-1].items() if name != "step"}
    print("last step: " + ", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    if asr := result["floor"].get("asr"):
        share = with_interval(asr["value"], asr["interval"])
        print(f"floor: ASR {share} % of {asr['of']} pictures, on the surrogate as it is")
    else:
        print("floor: not measured, since config.evaluation.data is not set")
    print(f"written: {args.output}, with .npy and .json beside it")
    return 0
