"""Sums for fitting a matrix product to a matrix: least squares, in one order whatever the machine (no BLAS).

Matrices are float64, row by row in one dimension. Loops run along the short side (the rank), which is contiguous, so
that they are vectorised without an addition moving.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from slimtensors.kernels._jit import kernel
from slimtensors.kernels.status import BAD_ARGUMENT, OK

Array = npt.NDArray[Any]

VECTOR = 8  # float64; a row of a triangle is summed in whole ones
RIDGE = 1e-12  # of the mean diagonal, so that equations without a solution have one


@kernel
def add_product(matrix: Array, right: Array, rank: int, out: Array) -> int:
    """out[i, p] += sum over j of matrix[i, j] * right[j, p]

    matrix [n * m], right [m * rank], out [n * rank]
    """
    if rank <= 0 or out.size % rank != 0 or right.size % rank != 0:
        return BAD_ARGUMENT
    n, m = out.size // rank, right.size // rank
    if matrix.size != n * m:
        return BAD_ARGUMENT
    for i in range(n):
        sums = out[i * rank : i * rank + rank]
        for j in range(m):
            one, row = matrix[i * m + j], right[j * rank : j * rank + rank]
            for p in range(rank):
                sums[p] += one * row[p]
    return OK


@kernel
def add_equations(
    matrix: Array, weights: Array, right: Array, rank: int, squares: Array, products: Array, totals: Array
) -> int:
    """The normal equations of each row of the matrix, weighted, for factors of which `right` is one side.

    squares[i, p, q] += sum over j of weights[i, j] * right[j, p] * right[j, q]      for q <= p; noise above
    products[i, p]   += sum over j of weights[i, j] * right[j, p] * matrix[i, j]
    totals[i]        += sum over j of weights[i, j] * matrix[i, j] * matrix[i, j]

    What is left of totals[i] after the best x is totals[i] - x . products[i].

    matrix, weights [n * m], right [m * rank], squares [n * rank * rank], products [n * rank], totals [n]
    """
    if rank <= 0 or products.size % rank != 0 or right.size % rank != 0:
        return BAD_ARGUMENT
    n, m = products.size // rank, right.size // rank
    if matrix.size != n * m or weights.size != n * m or squares.size != n * rank * rank or totals.size != n:
        return BAD_ARGUMENT
    for i in range(n):
        sums = products[i * rank : i * rank + rank]
        for j in range(m):
            weight, row = weights[i * m + j], right[j * rank : j * rank + rank]
            one = weight * matrix[i * m + j]
            totals[i] += one * matrix[i * m + j]
            for p in range(rank):
                sums[p] += one * row[p]
            for p in range(rank):
                factor = weight * row[p]
                line = squares[(i * rank + p) * rank : (i * rank + p + 1) * rank]
                for q in range(min(rank, p + VECTOR - p % VECTOR)):
                    line[q] += factor * row[q]
    return OK


@kernel
def solve(squares: Array, products: Array, rank: int) -> int:
    """Solve squares[i] @ x = products[i] for each i, by Cholesky's method; `products` becomes x, `squares` noise."""
    if rank <= 0 or products.size % rank != 0 or squares.size != products.size * rank:
        return BAD_ARGUMENT
    for i in range(products.size // rank):
        a, x = squares[i * rank * rank : (i + 1) * rank * rank], products[i * rank : (i + 1) * rank]
        trace = 0.0
        for p in range(rank):
            trace += a[p * rank + p]
        least = RIDGE * trace / rank + 1e-300
        for p in range(rank):
            for q in range(p + 1):
                rest = a[p * rank + q]
                for k in range(q):
                    rest -= a[p * rank + k] * a[q * rank + k]
                # the lower triangle becomes L, with squares = L L^T
                a[p * rank + q] = math.sqrt(max(rest, least)) if p == q else rest / a[q * rank + q]
        for p in range(rank):
            for k in range(p):
                x[p] -= a[p * rank + k] * x[k]
            x[p] /= a[p * rank + p]
        for p in range(rank - 1, -1, -1):
            for k in range(p + 1, rank):
                x[p] -= a[k * rank + p] * x[k]
            x[p] /= a[p * rank + p]
    return OK


@kernel
def orthonormalise(columns: Array, rank: int) -> int:
    """Gram and Schmidt's method, twice over for rounding, on columns[m, rank]. A column that vanishes becomes zero."""
    if rank <= 0 or columns.size % rank != 0:
        return BAD_ARGUMENT
    m = columns.size // rank
    for _again in range(2):
        for p in range(rank):
            for q in range(p):
                along = 0.0
                for j in range(m):
                    along += columns[j * rank + q] * columns[j * rank + p]
                for j in range(m):
                    columns[j * rank + p] -= along * columns[j * rank + q]
            length = 0.0
            for j in range(m):
                length += columns[j * rank + p] * columns[j * rank + p]
            scale = 1 / math.sqrt(length) if length > 0 else np.float64(0)
            for j in range(m):
                columns[j * rank + p] *= scale
    return OK
