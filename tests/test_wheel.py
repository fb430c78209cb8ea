"""The wheel stands alone: it holds all data of the package, and runs outside the checkout."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from helpers.small_run import FLAGS

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def run(command: Sequence[str | Path], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("cleanclip_jax", "configs"):
        copytree(ROOT / name, folder / name, ignore=ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-W", "ignore", "-c", BUILD, "dist"], folder)
    return next((folder / "dist").glob("*.whl"))


def test_wheel_holds_code_data_and_configs(wheel: Path):
    def files(folder: str) -> set[str]:
        paths = (p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file())
        return {str(path) for path in paths if "__pycache__" not in path.parts}

    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files("cleanclip_jax") | {f"cleanclip_jax/{name}" for name in files("configs")}


@pytest.mark.slow
def test_wheel_trains_outside_the_checkout(wheel: Path, tmp_path: Path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "--no-index", f"--target={site}", wheel], tmp_path)
    # TensorBoard's writer imports PyTorch where it is installed, which takes longer than JAX.
    (site / "torch.py").write_text("raise ImportError\n")
    environment = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", "import cleanclip_jax; print(cleanclip_jax.__file__)"]
    assert run(command, tmp_path, **environment).strip() == f"{site}/cleanclip_jax/__init__.py"
    assert "jobs:" in run([site / "bin/cleanclip", "--help"], tmp_path, **environment)
    train = [site / "bin/cleanclip", "train", "--config=configs/demo.py", "--workdir=run", *FLAGS]
    assert "trained: run" in run(train, tmp_path, **environment)
    assert (tmp_path / "run/checkpoints/2").is_dir()
