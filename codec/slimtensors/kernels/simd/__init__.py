"""Vectors of 32 unsigned integers for Numba kernels; each operation is a NumPy function and its lowering."""
