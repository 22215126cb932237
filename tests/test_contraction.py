"""Sums of products in Einstein's notation, and other layers that are counted in one place for every format."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import kernels, layers

LETTERS = "abcde"


@st.composite
def equations(draw) -> tuple[str, list[tuple[int, ...]]]:
    """Two operands that share some letters, and a result of some of theirs."""
    size = {letter: draw(st.integers(1, 4)) for letter in LETTERS}
    operands = [
        "".join(draw(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=4, unique=True))) for _ in "ab"
    ]
    every = sorted(set("".join(operands)))
    result = "".join(draw(st.lists(st.sampled_from(every), unique=True, max_size=4)))
    return f"{','.join(operands)}->{result}", [tuple(size[c] for c in each) for each in operands]


@given(equations())
def test_two_operands_multiply_once_for_each_number_of_what_they_share_and_show(
    case: tuple[str, list[tuple[int, ...]]],
) -> None:
    equation, shapes = case
    (made,) = layers.contraction(equation, shapes)
    left, _, result = equation.partition("->")
    a, b = left.split(",")
    size = {
        c: n
        for letters, shape in zip((a, b), shapes, strict=True)
        for c, n in zip(letters, shape, strict=True)
    }
    # What only one operand has and the result lacks is summed up before the product.
    counted = [c for c in size if c in result or (c in a and c in b)]
    products = math.prod(size[c] for c in counted)
    form = kernels.form(made)
    assert products in (form.multiply_adds, form.flops)
    assert form.results[0].elements == np.einsum(equation, *(np.ones(shape) for shape in shapes)).size


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 6)], 2 * 3 * 4 * 5 * 6),
        ("bhid,bhjd->bhij", [(2, 4, 7, 8), (2, 4, 9, 8)], 2 * 4 * 7 * 9 * 8),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
        ("ij,jk", [(2, 3), (3, 4)], 24),
        ("b...d,de->b...e", [(2, 5, 6, 3), (3, 4)], 2 * 5 * 6 * 3 * 4),
    ],
)
def test_multiply_adds_of_known_equations(equation: str, shapes: list[tuple[int, ...]], macs: int) -> None:
    assert sum(kernels.multiply_adds(each) for each in layers.contraction(equation, shapes)) == macs


def test_one_operand_is_summed_or_laid_out_anew() -> None:
    (total,) = layers.contraction("ij->j", [(6, 4)])
    assert (total.family, kernels.form(total).results[0].elements) == ("reduction", 4)
    assert layers.contraction("ij->ji", [(6, 4)])[0].family == "copy"


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [("ij,jk->ik", [(2, 3)]), ("ij->k", [(2, 3)]), ("ijk->i", [(2, 3)]), ("", [(2,)])],
)
def test_an_equation_that_does_not_fit_is_refused(equation: str, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"operands|letters|argument|zip"):
        layers.contraction(equation, shapes)


@pytest.mark.parametrize(
    ("rows", "experts", "parts"), [(64, 8, [8 * 8]), (67, 8, [5 * 8, 3 * 9]), (3, 8, [3])]
)
def test_experts_share_the_rows_as_evenly_as_can_be(rows: int, experts: int, parts: list[int]) -> None:
    made = layers.grouped_product((rows, 16), (experts, 16, 32))
    assert [kernels.multiply_adds(each) for each in made] == [part * 16 * 32 for part in parts]
    # No more of their matrices are read than there are rows.
    assert sum(kernels.form(each).inputs[1].elements for each in made) == min(rows, experts) * 16 * 32
