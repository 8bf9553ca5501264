"""Kernels for NVIDIA GPUs. A module holds factories: given `cuda`, `types` and `device`, they make a kernel's body.

    cuda    numba.cuda, or what stands for it in tests
    types   numba, for its integers; all arithmetic is cut to uint32 by hand
    device  decorates functions that bodies call

So nothing here imports numba.cuda, and the tests run the same bodies on a machine without a GPU.
"""
