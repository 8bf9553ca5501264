"""Pure loops over arrays, compiled by Numba. They import nothing else of ours, and check nothing."""
