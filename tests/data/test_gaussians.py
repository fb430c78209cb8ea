"""The mixture against scikit-learn's values for SafeCLIP's split."""

import numpy as np
import pytest

from cleanclip_jax.data.gaussians import fit_two_gaussians
from cleanclip_jax.errors import UserError


# Where scikit-learn's k-means, which draws its start, cut the values of a: not quite at best.
@pytest.mark.parametrize(("case", "cut"), [("a", 0.7827300429344177), ("b", None)])
def test_the_mixture(golden, case, cut):
    arrays = golden(f"detectors_{case}")
    cosines = arrays[f"clip_score/{case}/score"]
    fitted = fit_two_gaussians(cosines, cut)
    order = np.argsort(arrays[f"safeclip/{case}/means"])
    for name in ("means", "weights"):
        np.testing.assert_allclose(
            getattr(fitted, name), arrays[f"safeclip/{case}/{name}"][order], rtol=1e-4
        )
    np.testing.assert_allclose(
        fitted.variances, arrays[f"safeclip/{case}/covariances"][order], rtol=1e-4
    )
    assert fitted.rounds == arrays[f"safeclip/{case}/iterations"]
    np.testing.assert_allclose(
        fitted.upper(cosines), arrays[f"safeclip/{case}/clean_probability"], atol=1e-4
    )


def test_values_that_are_no_mixture_are_one_line():
    for values in (np.ones(5), np.ones(1), np.ones(0)):
        with pytest.raises(UserError, match="all of them equal"):
            fit_two_gaussians(values)
