"""Random command lines of all jobs, and config files for `train`: right ones and wrong ones."""

import random
from pathlib import Path

from cleanclip_jax.config_keys import KEYS

VALUES = (
    *("None", "True", "False", "", " ", "0", "1", "-1", "2", "3", "7", "16", "0.5", "1e-3", "1.0"),
    *("-0.0", "1e9", "1e-320", "1e400", "-1e400", "nan", "inf", "1_000", "0x10", "1j", "..."),
    *("2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775809", "9" * 400, "9" * 5000, "100000", "16376", "1000000000"),
    *("x", "none", "auto", "all", "text", "visual", "head", "trigger", "logit_scale", "('a',)"),
    *("[]", "()", "{}", "[1]", "[1, 2]", "['a']", "('visual', 'text')", "[None]", "[[]]", "[{}]"),
    *("{1: 2}", "{'a': 1}", "{'a.b': 1}", "{'items': 1}", "{'': 1}", "{None: None}", "{[]: 1}"),
    *("{'a': {'b': {2: 3}}}", "[" * 300, "{'a': " * 90 + "1" + "}" * 90, "b'x'", "{1, 2}"),
    *("é", "\x1b[31mred", "a\nb", "\t", "\0", "\udcff", "~nosuchuser/x", "/dev/null", "/"),
    *("../" * 400, "x" * 300, "x" * 5000, "gs:/x", "xyz://a/b", "file.py", "*", "{a..b}"),
    *("gelu", "quick_gelu", "bfloat16", "float64", "xla", "cudnn", "device", "host", "fast"),
    *("once", "eda", "autoaugment", "wordnet", "start", "original", "clip", "trained", "squash"),
    *("seven", "['seven', 'eight']", "imagenet", "{'weight': 1}", "{'weight': 'x'}"),
    *("{'weight': -1}", "{'weight': 1, 'normalised': True}", "{'weight': 1, 'normalised': 3}"),
    *("{'weight': 1, 'other': 3}", "RN50", "ViT-32px/8", "ViT-B/32", "RN-32px", "badnet"),
    *("{'name': 'badnet', 'size': 4}", "{'name': 'wanet', 'k': 4}", "{'name': 3}", "{'name': 'x'}"),
    *("{'kind': 'digits'}", "{'kind': 'digits', 'split': 3}", "{'kind': 'csv'}", "{'kind': 7}"),
    *("{'kind': 'csv', 'path': 7}", "{'kind': 'digits', 'where': 'split=train'}"),
    *("{'kind': 'mixture', 'sources': {'a': {'kind': 'digits'}}}", "{'kind': 'csv', 'path': []}"),
    *("{'kind': 'mixture', 'sources': {'a': {'kind': 'digits', 'weight': 'x'}}}",),
    *("{'kind': 'mixture', 'sources': 3}", "{'kind': 'digits', 'keep': 3}"),
)
# Keys of what is open: a source, a trigger, a set.
MORE = (
    *("data.train.kind", "data.train.path", "data.train.split", "data.train.templates"),
    *("data.train.where", "data.train.keep", "data.train.skip", "data.train.x", "data.train"),
    *("attack.trigger.name", "attack.trigger.size", "attack.trigger.place", "attack.trigger.noise"),
    *("attack.trigger.strength", "attack.trigger.seed", "attack.trigger.x", "evaluation.data.kind"),
    *("evaluation.data.split", "evaluation.data.x", "evaluation.attack.trigger", "data", "model"),
    *("objective.in_modal.weight", "optimizer.lr", "train.bs", "", ".", "a.b.c", "seed.x", "x y"),
)
RECIPES = (
    *("demo.py", "demo.py", "demo.py", "demo.py:mmcl", "demo.py:cleanclip", "demo.py:x"),
    *("fashion.py", "pretrain.py", "cleanclip.py", "none.py", "", ":", "demo", "demo.yaml"),
)


def command_line(draw: random.Random, workdir: Path) -> list[str]:
    """The words after `cleanclip`, of which most name the demo's config and one to three keys."""
    words = [f"--config=configs/{draw.choice(RECIPES[:3] if draw.random() < 0.8 else RECIPES)}"]
    words += [f"--workdir={workdir}", "--config.mesh.data=1"]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        key = draw.choice((*KEYS, *MORE))
        words.append(f"--config.{key}={draw.choice(VALUES)}")
    if draw.random() < 0.1:
        flags = ("--profile", "--process", "--processes", "--coordinator", "--import", "--x", "-")
        words.append(f"{draw.choice(flags)}={draw.choice(VALUES)}")
    if draw.random() < 0.05:
        words.pop(draw.randrange(len(words)))
    return ["train", *words]


# What a job is given: its files lie in the folder that it is run in. Those of the first row are
# right; a flag in brackets may be left out.
WORKDIRS, CHECKPOINTS = ("poisoned", "probe", "measured"), ("a.pt", "a.safetensors", "cut.pt")
CONFIGS = (*["configs/demo.py"] * 5, "configs/demo.py:cleanclip", "configs/none.py")
DIGITS = ("{'kind': 'digits'}", "{'kind': 'digits', 'split': 'test'}", "{'kind': 'digits', 'x': 3}")
NEW = (*("new", "new", "new.pt", "new.safetensors", "new/er", "no", "no/thing.pt", "x y", "é"),)
NEW += ("poisoned", "a.pt", "pipe", "link")
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {
        "--workdir": (*WORKDIRS, *CHECKPOINTS, "sweep", "pipe"),
        "[--output]": ("new.json", "file", "pipe", "link", "poisoned", "file/new"),
        "[--floor]": ("start", *WORKDIRS, *CHECKPOINTS),
    },
    "convert": {
        "": (*WORKDIRS, *CHECKPOINTS, "file", "pipe"),
        " ": NEW,
        "[--format]": ("openai", "open_clip", "open_clip_text", "huggingface", "cleanclip"),
        "[--activation]": ("gelu", "quick_gelu", "gelu_tanh"),
        "[--key]": ("state_dict", "average"),
        "[--image_size]": ("32", "33", "64"),
        "[--tokenizer]": ("poisoned/tokenizer.json", "file", "pipe"),
        "[--dtype]": ("source", "float16", "bfloat16"),
    },
    "poison": {
        "--config": CONFIGS,
        "--output": NEW,
        "[--rows]": ("1", "8"),
        "[--export]": NEW,
        "[--export_test]": NEW,
    },
    "prepare": {
        "--source": DIGITS,
        "--output": NEW,
        "[--short_side]": ("16", "256"),
        "[--quality]": ("75", "100"),
        "[--shards]": ("1", "2"),
        "[--max_bad_share]": ("0", "0.5"),
        "[--runner]": ("DirectRunner",),
        "[--beam.x]": ("1",),
    },
    "sweep": {
        "--config": CONFIGS,
        "--workdir": ("new", "new/er", "file", "poisoned", "pipe"),
        "--over": ("seed=0,1", "optimizer.learning_rate=1e-3,1e-4", "seed=0", "attack.rate=0.1,x"),
        "[--every]": ("epoch", "5"),
    },
    "report": {
        "": (*WORKDIRS, "sweep", "file"),
        "[--output]": NEW,
        "[--title]": ("x", "<b>"),
        "[--pictures]": ("1", "6"),
    },
}
# The keys that each job takes, of which most lines name one.
KEYS_OF = {"evaluate": "evaluation", "poison": "attack", "sweep": "train"}


def job_line(draw: random.Random, job: str) -> list[str]:
    """A command line of a job other than train, of which most are right but for a value or two."""
    # A value that leads out of the folder could be written to.
    inside = [value for value in VALUES if not value.startswith(("/", "..", "~"))]
    words = [job]
    for flag, values in FLAGS[job].items():
        name = flag.strip("[]")
        if name != flag and draw.random() < 0.85:
            continue
        value = draw.choice(values if draw.random() < 0.92 else inside)
        if job == "sweep" and name == "--over" and draw.random() < 0.3:
            value = f"{draw.choice((*KEYS, *MORE))}={','.join(draw.choices(VALUES, k=2))}"
        words.append(f"{name}={value}" if name.strip() else value)
    if draw.random() < (0.5 if job in KEYS_OF else 0.05):
        near = [key for key in (*KEYS, *MORE) if key.startswith(KEYS_OF.get(job, ""))]
        key = draw.choice(near if draw.random() < 0.8 else [*KEYS, *MORE])
        words.append(f"--config.{key}={draw.choice(VALUES)}")
    if draw.random() < 0.05:
        words.append(draw.choice((f"--x={draw.choice(VALUES)}", "--quick", "--clean", "-", "--")))
    if draw.random() < 0.05:
        words.pop(draw.randrange(1, len(words)))
    return words


STATEMENTS = (
    *("import sys", "sys.exit(3)", "raise SystemExit", "raise SystemExit('x\\ny')", "1 / 0", "def"),
    *("import no_such_module", "from cleanclip_jax import nothing", "x = (", "\tx = 1", "\0"),
    *("return 3", "raise KeyboardInterrupt2", "raise Exception('a\\nb')", "raise RecursionError"),
    *("config.train.batch_size = 'x'", "config.x = 1", "config = None", "config.optimizer = 3"),
    *("del config['train']", "config.data.train = 7", "config.data = None", "config.attack = 'x'"),
    *("config.lock()", "config.train.steps = 1e3", "return {}", "return config, 1", "config = {}"),
    *("config.attack = {'trigger': 3}", "config.evaluation.sets = [3]", "config.seed = -1"),
    *("config.unlock(); config.new = 3", "config.evaluation.sets = ({},)", "yield config"),
    *("config.evaluation.data = {'kind': []}", "config.model.variant = ['RN50']", "é = 1"),
)


def config_file(draw: random.Random) -> str:
    """The text of a config file with a statement or two that may be none of Python's."""
    signature = draw.choice(("get_config(arg=None)", "get_config(arg)", "get_config()", "other()"))
    body = ["config = load('configs/demo.py')", "config.mesh.data = 1", "return config"]
    head = ["from cleanclip_jax.config import load"]
    for _ in range(draw.choice((1, 1, 2))):
        where = body if draw.random() < 0.8 else head
        where.insert(draw.randrange(len(where)), draw.choice(STATEMENTS))
    return "\n".join([*head, f"def {signature}:", *(f"    {line}" for line in body), ""])
