"""Kernels for the CPU: one-dimensional contiguous arrays in and out, a status back."""
