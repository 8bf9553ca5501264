"""Decoding on a GPU: which one can, what it is given, what comes of it. Loads neither torch nor numba-cuda."""
