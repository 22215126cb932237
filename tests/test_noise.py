"""Short cuts of the linear algebra give what the long way gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, signal

from joulemeter import noise, response


@given(rows=st.integers(1, 40), bands=st.integers(1, 4), seed=st.integers(0, 10))
def test_a_banded_system_is_solved_as_scipy_solves_it(rows, bands, seed):
    rng = np.random.default_rng(seed)
    lower = np.zeros((min(bands, rows), rows))
    lower[0] = 2 + rng.random(rows)
    for k in range(1, len(lower)):
        lower[k, : rows - k] = rng.uniform(-0.3, 0.3, rows - k)
    factor, right = linalg.cholesky_banded(lower, lower=True), rng.random((rows, 3))
    expected = linalg.cho_solve_banded((factor, True), right)
    np.testing.assert_allclose(noise.solved(factor, right), expected, rtol=1e-10)
    np.testing.assert_allclose(noise.solved(factor, right[:, 0]), expected[:, 0], rtol=1e-10)


def test_a_rows_couplings_alone_make_a_banded_system_of_one_row():
    assert noise.solved(np.array([[2.0], [0.0]]), np.array([8.0])) == pytest.approx(2.0)


@given(rows=st.integers(1, 3000), wide=st.sampled_from([1, 7, 43, 120]))
def test_a_product_in_tiles_is_the_product(rows, wide):
    rng = np.random.default_rng(rows)
    left, right = rng.random((rows, wide)), np.asfortranarray(rng.random((rows, wide)))
    np.testing.assert_allclose(noise._inner(left, right), left.T @ right, rtol=1e-12)


def test_unchaining_is_the_recursive_filter():
    columns = np.random.default_rng(0).random((50, 3))
    expected = signal.lfilter([1.0], [1.0, -0.7], columns, axis=0)
    np.testing.assert_allclose(response._unchained(columns), expected, rtol=1e-12)


def test_a_matrix_that_rounding_left_not_positive_is_factored_all_the_same():
    """Four sites under 14 readings of four watts: a Cholesky factor that there was none of ended the report."""
    column = np.array([1e8, 1.0, 3e4])
    matrix = np.outer(column, column)
    matrix[1, 1] -= 1e-9
    with pytest.raises(linalg.LinAlgError):
        linalg.cho_factor(matrix, lower=True)
    found = linalg.cho_solve(noise.factored(matrix), column)
    assert np.isfinite(found).all()
    assert np.allclose(matrix @ found, column, rtol=1e-3)
