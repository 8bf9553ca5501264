"""Quantisation from floats: what a quantiser is, which tensors are quantised, and the formats that others define.

A quantiser says how a tensor will be stored (expression, side planes), and makes what is stored of its floats. All the
rest, from files to errors, is the same for all of them.
"""
