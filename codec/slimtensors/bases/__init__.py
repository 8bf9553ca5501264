"""Bases: their tensors and units, which of them each tensor is compared with, and where they are found."""
