"""The house of docs/design.md: floors, sizes, names, and the spine that training loads.

Rooms are the folders of cleanclip_jax, and its single files. Imports are read off the syntax tree,
so that lazy ones inside functions count as well.
"""

import ast
import csv
import graphlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "cleanclip_jax"
NAME = SOURCE.name

FLOORS = (  # from the bottom
    (
        *("errors", "cache", "keys", "config_keys", "table_keys", "config", "key_list", "recipes"),
        *("files", "shapes", "parquet", "args", "arrays", "registry", "workdir", "bucket"),
    ),
    ("models", "losses", "sharding", "process", "cluster", "attacks", "text", "views", "record"),
    ("data", "start"),
    ("measure", "detect"),
    ("run", "extend"),
    ("report",),
    ("cleaning", "suite", "persist"),
    ("jobs",),
    ("cli",),
    ("face",),  # opens the whole house, lazily
    ("__init__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

FRAMEWORKS = {"jax", "jaxlib", "flax", "torch", "tensorflow"}
# What training on a CSV does without.
OPTIONAL = {"torch", "tensorflow", "tensorflow_datasets", "transformers", "matplotlib", "sklearn"}
OPTIONAL |= {"nltk", "wandb"}  # pandas is loaded by pyarrow, where it is installed
HOST_ROOMS = ("attacks", "text", "views", "record", "data")  # what Grain's workers load

# Lines: of a file of the package, of another, of all of the package; files and lines that
# `cleanclip train` on a CSV loads. They may fall: docs/design.md has what was planned.
LONGEST, LONGEST_ELSEWHERE = 300, 393
PACKAGE = 33_700
SPINE_FILES, SPINE_LINES = 53, 8_400

# Private words, which the code once used for settings, results, rows, encoders and the like: none
# stands in a name, nor in comments, docstrings and messages.
PRIVATE_NAMES = {
    *("asked", "found", "own", "said", "told", "subject", "changed", "trouble", "company"),
    *("near", "kept", "reckon", "unheard", "heard", "theirs"),
}
PRIVATE_PROSE = re.compile(r"\b(asked|reckon\w*|unheard|company|told|fidelity row)\b", re.I)

# Modules that share a name: each other name is one file's.
TWINS = {"__init__"}

# Tests of no single module: of whole commands, of faults, and against golden values and PyTorch.
CROSS_CUTTING = (
    *("faults/*", "launch/*", "test_house", "test_benchmarks", "test_load", "*/test_golden*"),
    *("test_wheel", "test_docs", "test_readme", "start/test_old_workdirs"),
    *("start/torch/test_live_torch", "start/torch/test_files", "start/test_store_damage"),
    *("data/test_remote", "data/table/test_labels", "data/stream/test_manifest"),
    *("data/stream/test_odd_pictures", "data/stream/test_same_batches"),
    *("data/stream/test_stream_golden", "data/stream/test_unreadable"),
    *("jobs/test_commands", "models/test_properties", "run/test_inputs", "run/test_parallel"),
    *("run/test_precision", "run/test_supervised"),
)


def module_name(file: Path) -> str:
    """cleanclip_jax/views/eda.py is cleanclip_jax.views.eda; a folder is its __init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Yields (dotted name, line): `from a.b import c` gives a.b.c, which may be a name in a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


FILES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}


def inner_imports(file: Path) -> Iterator[tuple[str, int]]:
    """Yields (module of this package, line); the version, a bare name, is anybody's to read."""
    for name, line in imports(file):
        if name.split(".")[0] != NAME or name == f"{NAME}.__version__":
            continue
        yield (name if name in FILES else name.rpartition(".")[0] or name), line


def test_every_folder_is_a_package():
    """Else an installed wheel and the tests' type checks would pass it by."""
    assert not {str(f.parent) for f in FILES.values() if not (f.parent / "__init__.py").is_file()}


@pytest.mark.parametrize("module", FILES)
def test_imports_run_down(module: str):
    file, home = FILES[module], room(module)
    assert home in FLOOR, f"{file}: give the room {home!r} a floor in this test"
    for name, line in inner_imports(file):
        assert name in FILES, f"{file}:{line}: there is no {name}"
        assert FLOOR.get(room(name), 0) <= FLOOR[home], f"{file}:{line}: {home} imports {name}"


@pytest.mark.parametrize("folder", ["benchmarks", "configs", "examples"])
def test_what_stands_beside_the_package_uses_its_public_names(folder: str):
    for file in (ROOT / folder).rglob("*.py"):
        for name, line in imports(file):
            if name.split(".")[0] == NAME:
                assert name in FILES or name.rpartition(".")[0] in FILES, f"{file}:{line}: {name}"
                assert not name.rpartition(".")[2].startswith("_"), f"{file}:{line}: {name}"


@pytest.mark.parametrize("kind", ["files", "rooms"])
def test_imports_make_no_circle(kind: str):
    graph: dict[str, set[str]] = defaultdict(set)
    for module, file in FILES.items():
        for name, _ in inner_imports(file):
            graph[module].add(name) if kind == "files" else graph[room(module)].add(room(name))
    if kind == "rooms":
        graph = {home: others - {home} for home, others in graph.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def on_host(module: str) -> bool:
    """Whether Grain's workers may load a module: what runs on a device is named so."""
    last = module.rpartition(".")[2]
    return room(module) in HOST_ROOMS and not last.startswith("device_") and last != "normalise"


@pytest.mark.parametrize("module", [module for module in FILES if on_host(module)])
def test_host_rooms_use_numpy_alone(module: str):
    allowed = {*HOST_ROOMS, *FLOORS[0]}
    for name, line in imports(FILES[module]):
        where = f"{FILES[module]}:{line}: {name}"
        top = name.split(".")[0]
        assert top not in FRAMEWORKS, where
        assert top != "grain" or room(module) == "data", f"{where}: Grain is for data alone"
        # jaxtyping fetches these from JAX; arrays of the host are np.ndarray.
        assert name not in {"jaxtyping.Array", "jaxtyping.ArrayLike", "jaxtyping.PyTree"}, where
    for name, line in inner_imports(FILES[module]):
        assert room(name) in allowed, f"{FILES[module]}:{line}: {name} is loaded by the workers"


@pytest.mark.parametrize("module", FILES)
def test_linen_lives_in_models(module: str):
    used = [line for name, line in imports(FILES[module]) if f"{name}.".startswith("flax.linen.")]
    assert not used or room(module) == "models", f"{FILES[module]}:{used[0]}"


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.mark.parametrize("folder", [NAME, "configs", "tests", "benchmarks", "launch", "examples"])
def test_files_stay_short(folder: str):
    longest = LONGEST if folder == NAME else LONGEST_ELSEWHERE
    long = {str(f): lines(f) for f in (ROOT / folder).rglob("*.py") if lines(f) > longest}
    assert not long


def test_the_package_stays_small():
    assert sum(map(lines, FILES.values())) <= PACKAGE


def test_a_name_is_one_modules():
    counts = Counter(file.stem for file in FILES.values())
    assert {name for name, count in counts.items() if count > 1} <= TWINS


def test_a_modules_test_is_found_by_its_name():
    """tests/views/test_eda.py is the test of cleanclip_jax/views/eda.py."""
    tests = ROOT / "tests"
    homeless = []
    for file in tests.rglob("test_*.py"):
        name = file.relative_to(tests)
        module = SOURCE / name.with_name(name.name.removeprefix("test_"))
        if not module.is_file() and not any(name.match(f"{rule}.py") for rule in CROSS_CUTTING):
            homeless.append(str(name))
    assert not homeless, "a test without its module: rename it, or name it in CROSS_CUTTING"


def test_private_words_are_gone():
    names, prose = [], []
    for file in FILES.values():
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            for name in (getattr(node, field, None) for field in ("id", "attr", "arg", "name")):
                if isinstance(name, str) and PRIVATE_NAMES & set(name.split("_")):
                    names.append(f"{file}:{getattr(node, 'lineno', 0)}: {name}")
        prose += [f"{file}: {match.group()}" for match in PRIVATE_PROSE.finditer(text)]
    assert not names and not prose


def in_a_fresh_python(program: str, *args: str) -> str:
    """Runs a program without the tests' hook; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def frameworks_loaded_by(modules: list[str]) -> set[str]:
    """The frameworks that come with `modules`."""
    printed = in_a_fresh_python(f"import sys, {', '.join(modules)}\nprint(*sys.modules)")
    return FRAMEWORKS & set(printed.split())


@pytest.mark.parametrize("module", [NAME, f"{NAME}.cli"])
def test_the_front_door_is_light(module: str):
    """`cleanclip --help` and `import cleanclip_jax` answer at once."""
    assert frameworks_loaded_by([module]) == set()


def test_host_rooms_load_no_framework():
    """Nor through the libraries they use. But for data: there Grain brings JAX along."""
    modules = [module for module in FILES if on_host(module) and room(module) != "data"]
    assert frameworks_loaded_by(modules) == set()


SPINE = """
import sys
from cleanclip_jax.cli import main
code = main(sys.argv[1:])
print("loaded", *sys.modules)
sys.exit(code)
"""


@pytest.mark.slow
def test_the_spine_stays_short(tmp_path: Path):
    """What somebody reads who wants to know how `cleanclip train` on a CSV trains."""
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "caption"))
        for i in range(4):
            Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(tmp_path / f"{i}.jpg")
            writer.writerow((f"{i}.jpg", f"picture {i} of four"))
    source = {"kind": "csv", "path": str(tmp_path / "pairs.csv")}
    keys = {
        "data.train": source,
        "attack": None,
        "evaluation.data": None,
        "train.batch_size": 4,
        "train.steps": 1,
        "mesh.data": 1,
    }
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    flags += ["--config=configs/demo.py", f"--workdir={tmp_path / 'run'}"]
    printed = in_a_fresh_python(SPINE, "train", *flags).splitlines()
    (loaded,) = (set(line.split()[1:]) for line in printed if line.startswith("loaded "))
    assert not loaded & OPTIONAL
    sizes = {name: lines(FILES[name]) for name in loaded & FILES.keys() if lines(FILES[name])}
    listing = "\n".join(f"{size:5} {name}" for name, size in sorted(sizes.items()))
    assert len(sizes) <= SPINE_FILES and sum(sizes.values()) <= SPINE_LINES, listing
