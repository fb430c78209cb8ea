"""Projections: scikit-learn's, seeded, of a sample of pictures."""

import os
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cleanclip_jax.errors import UserError
from cleanclip_jax.measure.projection import Projection, choose, project
from cleanclip_jax.measure.ranks import unit


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    clean = unit(rng.standard_normal((12, 6)).astype(np.float32))
    lifted = unit(clean * np.float32(0.1) + 5 * np.eye(6, dtype=np.float32)[0])
    return clean, lifted, np.arange(12) % 3, np.arange(12) * 2


def test_both_are_projected_together_and_the_seed_decides(rows, tmp_path):
    first, again = project(*rows, target=1, seed=3), project(*rows, target=1, seed=3)
    np.testing.assert_array_equal(first.tsne, again.tsne)
    wanted = PCA(2).fit_transform(np.concatenate(rows[:2]))
    np.testing.assert_allclose(np.abs(first.pca), np.abs(wanted), atol=1e-4)
    assert first.triggered.tolist() == [False] * 12 + [True] * 12
    assert first.label.tolist() == list(rows[2]) * 2 and first.index[13] == 2
    assert first.groups[:3] == [
        *("clean, other classes", "clean, target class", "clean, other classes")
    ]
    assert first.groups[12:14] == ["triggered, other classes", "triggered, target class"]
    first.save(tmp_path / "projection.npz")
    loaded = Projection.load(tmp_path / "projection.npz")
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)


def test_the_sample_has_the_given_size():
    labels = np.array([0, -1, 1, 2, -1, 0, 1])
    assert choose(labels, 10, 0).tolist() == [0, 2, 3, 5, 6]
    drawn = choose(labels, 3, 0)
    assert len(drawn) == 3 and set(drawn) < {0, 2, 3, 5, 6} and list(drawn) == sorted(drawn)
    assert choose(labels, 3, 0).tolist() == drawn.tolist()


def test_mistakes_are_one_line(rows, tmp_path):
    with pytest.raises(UserError, match="3 pictures, 10 are needed"):
        project(*(part[:3] for part in rows), target=0, seed=0)
    (tmp_path / "x.npz").write_bytes(b"no archive")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04" + bytes(40))
    names = ("pca", "tsne", "explained", "triggered", "label", "index")
    np.savez(tmp_path / "other.npz", **{name: rows[2] for name in names}, target=1)
    arrays: dict[str, Any] = {
        "pca": np.zeros((12, 2), np.float32),
        "tsne": np.zeros((12, 2), np.float32),
    }
    arrays |= {"explained": np.zeros(2, np.float32), "triggered": np.zeros(12, bool)}
    arrays |= {"label": np.arange(12), "index": np.arange(12), "target": np.int64(1)}
    np.savez(tmp_path / "right.npz", **arrays)
    assert Projection.load(tmp_path / "right.npz").target == 1
    np.savez_compressed(tmp_path / "packed.npz", **arrays)  # which evaluate writes none of
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("x.npz", "none.npz", "torn.npz", "other.npz", "packed.npz", "pipe.npz"):
        with pytest.raises(UserError, match="is no projection"):
            Projection.load(tmp_path / name)
