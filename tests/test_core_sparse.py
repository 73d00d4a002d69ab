"""Proves: products with a sparse matrix are the dense ones, in value and gradient."""

import pytest
import torch
from torch import Tensor

from d2v.core.sparse import SparseProduct
from tests.maths_case import normal, seeded


def sparse_matrix(seed: int, num: int, width: int, share: float) -> Tensor:
    """Entries in no order, some places twice; the first row and the last column are empty."""
    places = torch.rand(num, width, generator=seeded(seed)) < share
    places[0] = False
    places[:, -1] = False
    rows, columns = places.nonzero().T
    rows, columns = torch.cat([rows, rows[::3]]), torch.cat([columns, columns[::3]])
    order = torch.randperm(len(rows), generator=seeded(seed))
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns])[:, order], normal(seed, len(rows)), (num, width),
        check_invariants=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("num", "width", "columns", "share"), [(7, 11, 3, 0.3), (30, 5, 1, 0.7), (2, 2, 2, 0.9)]
)
def test_product__equals_plain_loops_in_value_and_gradient(
    num: int, width: int, columns: int, share: float
) -> None:
    matrix, dense = sparse_matrix(1, num, width, share), normal(2, width, columns)
    weights = normal(3, num, columns)  # of a loss that is linear in the product
    value = torch.zeros(num, columns, dtype=torch.float64)
    gradient = torch.zeros(width, columns, dtype=torch.float64)
    entries = zip(*matrix._indices().tolist(), matrix._values().tolist(), strict=True)
    for i, j, entry in entries:
        for c in range(columns):
            value[i, c] += entry * dense[j, c]
            gradient[j, c] += entry * weights[i, c]
    dense.requires_grad_()
    found = SparseProduct(matrix)(dense)
    torch.testing.assert_close(found, value)
    (found * weights).sum().backward()
    torch.testing.assert_close(dense.grad, gradient)


def test_product__of_a_matrix_without_entries_is_zero() -> None:
    empty = torch.sparse_coo_tensor(
        torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0), (3, 4), check_invariants=True
    )
    assert torch.equal(SparseProduct(empty)(torch.ones(4, 2)), torch.zeros(3, 2))
