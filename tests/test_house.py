"""The house of docs/design.md: imports run down the floors, heavy libraries stay in their rooms.

Rooms are the folders of cleanclip_jax, and its single files. Imports are read off the syntax tree,
so that lazy ones inside functions count as well.
"""

import ast
import graphlib
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cleanclip_jax"
NAME = PACKAGE.name

FLOORS = (  # from the bottom
    ("errors", "config", "files", "args", "registry", "workdir", "bucket"),
    (
        *("models", "losses", "sharding", "process", "compile_cache", "host_memory"),
        *("attacks", "text", "views"),
    ),
    ("data", "start"),
    ("measure",),
    ("run",),
    ("report",),
    ("jobs",),
    ("cli",),
    ("__init__",),  # its `load` opens the whole house, lazily
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

FRAMEWORKS = {"jax", "jaxlib", "flax", "torch", "tensorflow"}
HOST_ROOMS = {"attacks", "text", "views", "data"}  # what Grain's worker processes load
LONGEST = 400


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


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


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


@pytest.mark.parametrize("module", filter(on_host, FILES))
def test_host_rooms_use_numpy_alone(module: str):
    allowed = HOST_ROOMS | set(FLOORS[0])
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


@pytest.mark.parametrize(
    "folder", ["cleanclip_jax", "configs", "tests", "benchmarks", "launch", "examples"]
)
def test_files_stay_short(folder: str):
    lengths = {f: len(f.read_text().splitlines()) for f in (ROOT / folder).rglob("*.py")}
    assert not {str(f): n for f, n in lengths.items() if n > LONGEST}


def frameworks_loaded_by(modules: list[str]) -> set[str]:
    """Imports `modules` in a fresh Python without the tests' hook; returns what came with them."""
    program = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return FRAMEWORKS & set(done.stdout.split())


@pytest.mark.parametrize("module", [NAME, f"{NAME}.cli"])
def test_the_front_door_is_light(module: str):
    """`cleanclip --help` and `import cleanclip_jax` answer at once."""
    assert frameworks_loaded_by([module]) == set()


def test_host_rooms_load_no_framework():
    """Nor through the libraries they use. Not asked of data: there Grain brings JAX along."""
    modules = [module for module in filter(on_host, FILES) if room(module) != "data"]
    assert frameworks_loaded_by(modules) == set()
