"""Two Gaussians without random numbers, against scikit-learn's of the published code."""

import numpy as np
import pytest

from cleanclip_jax.measure.gaussians import best_cut, two_gaussians


@pytest.mark.parametrize("case", ["usual", "wide_safe"])
def test_it_ends_where_scikit_learn_ends(golden, case):
    g = {k.rpartition("/")[2]: v for k, v in golden("pools").items() if f"split/{case}/" in k}
    fitted = two_gaussians(g["similarity"])
    ascending = np.argsort(g["means"])
    for name in ("weights", "means", "variances"):
        np.testing.assert_allclose(getattr(fitted, name), g[name][ascending], rtol=2e-6)
    np.testing.assert_allclose(fitted.probability, g["probability"], atol=1e-5)
    assert fitted.rounds == g["iterations"]
    assert fitted.log_likelihood == pytest.approx(float(g["lower_bound"]), rel=1e-5)
    ordered = np.sort(g["similarity"].astype(float))
    assert best_cut(ordered) == (~g["kmeans_high"]).sum()


def test_the_cut_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = np.sort(rng.normal(size=rng.integers(2, 20)))
        squares = [x[:i].var() * i + x[i:].var() * (len(x) - i) for i in range(1, len(x))]
        assert best_cut(x) == np.argmin(squares) + 1


def test_the_values_order_changes_nothing():
    x = np.concatenate([np.random.default_rng(0).normal(m, 0.1, 300) for m in (0.0, 0.5)])
    one, other = two_gaussians(x), two_gaussians(x[::-1])
    np.testing.assert_allclose(one.probability, other.probability[::-1], atol=1e-9)
    assert one.means[0] < one.means[1] and abs(one.means[1] - 0.5) < 0.05


@pytest.mark.parametrize("values", [[0.3, 0.3], [0.1, 0.7], [0.2] * 50, [0.0, 0.0, 1.0]])
def test_few_or_equal_values_give_numbers(values):
    fitted = two_gaussians(np.array(values))
    assert np.isfinite(fitted.probability).all() and np.isfinite(fitted.variances).all()
