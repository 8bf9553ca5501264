"""Groups, steps and blocks of a chunk's body (coder.md, section 1)."""

from __future__ import annotations

from slimtensors.kernels._jit import inlined

LANES = 32
GROUP = 128  # elements
STEPS = 4  # of 32 elements in a group
STATE_MIN = 1 << 16  # the state an encoder starts with, so the one a decoder ends with


@inlined
def first_step(elements: int, blocks: int, block: int) -> int:
    """The step that a block begins with; for block = blocks, the end of the body."""
    # floor(b * G / B) groups lie before block b
    return block * (elements // GROUP) // blocks * STEPS


@inlined
def are_blocks(elements: int, blocks: int) -> bool:
    """Whether a body of so many elements divides into so many blocks."""
    return elements >= 0 and elements % GROUP == 0 and 1 <= blocks <= elements // GROUP
