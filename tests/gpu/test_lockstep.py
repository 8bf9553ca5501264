"""The runner finds the faults that it is there for."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.lockstep import ALL, Cuda, Fresh, Types, device, launch
from gpu.memory import KernelError

u32, u8 = Types.uint32, Types.uint8


def run(body, *arguments, threads=32, grid=1, **options):
    launch(body.cuda, body, grid, threads, *arguments, **options)


def kernel(factory):
    """The body that a factory makes, with the `cuda` it was made with."""
    made_with = Cuda()
    body = factory(made_with)
    body.cuda = made_with
    return body


def out(size=32):
    return np.zeros(size, np.uint32)


@kernel
def reversed_in_shared(cuda):
    def body(result):
        cells = cuda.shared.array(64, u32)
        i = cuda.threadIdx.x
        cells[i] = 2 * i
        cuda.syncthreads()
        result[i] = cells[63 - i]

    return body


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_runs_what_is_sound(order):
    result = out(64)
    run(reversed_in_shared, result, threads=64, order=order)
    assert (result == 126 - 2 * np.arange(64)).all()


@kernel
def collectives(cuda):
    @device
    def prefix(value, lane):
        """How much the lanes below have."""
        total = value
        for i in range(5):
            other = cuda.shfl_up_sync(ALL, total, 1 << i)
            if lane >= 1 << i:
                total += other
        return total - value

    def body(odd, below, last, swapped):
        lane = cuda.threadIdx.x
        odd[lane] = cuda.popc(cuda.ballot_sync(ALL, lane % 2 == 1) & u32((1 << lane) - 1))
        below[lane] = prefix(lane, lane)
        last[lane] = cuda.shfl_sync(ALL, lane, 31)
        swapped[lane] = cuda.shfl_xor_sync(ALL, lane, 1)

    return body


def test_collectives():
    lanes = np.arange(32)
    arrays = [out() for _ in range(4)]
    run(collectives, *arrays)
    for found, expected in zip(arrays, (lanes // 2, lanes * (lanes - 1) // 2, 31 + 0 * lanes, lanes ^ 1), strict=True):
        assert found.tolist() == expected.tolist()


def test_integers_wrap():
    assert u32(-1) == ALL
    assert u32(1 << 32) == 0
    assert Types.int32(ALL) == -1
    result = np.zeros(32, np.uint8)
    run(stores_large, result)
    assert result[0] == 44
    signed = np.zeros(32, np.int32)
    run(converts, signed)
    assert signed.tolist() == [lane - (1 << 31) for lane in range(32)]
    with pytest.raises(KernelError, match="float"):
        run(converts_a_float, result)


@kernel
def stores_large(cuda):
    def body(result):
        result[cuda.threadIdx.x] = 300

    return body


@kernel
def converts(cuda):
    i32, wide = Types.int32, Types.uint64

    def body(result):
        result[cuda.threadIdx.x] = i32(u32(wide(cuda.threadIdx.x) + (1 << 31)) + wide(1 << 32))

    return body


@kernel
def converts_a_float(cuda):
    u8 = Types.uint8

    def body(result):
        result[cuda.threadIdx.x] = u8(1.5)

    return body


# ---- faults: (factory, what the fault says, threads)


def divergent_collective(cuda):
    def body(result):
        if cuda.threadIdx.x < 16:
            result[0] = cuda.ballot_sync(ALL, True)

    return body


def different_collectives(cuda):
    def body(_result):
        if cuda.threadIdx.x < 16:
            cuda.ballot_sync(ALL, True)
        else:
            cuda.ballot_sync(ALL, False)

    return body


def divergent_shuffle_in_device_function(cuda):
    @device
    def share(x):
        return cuda.shfl_sync(ALL, x, 0)

    def body(_result):
        for _ in range(cuda.threadIdx.x // 31):
            share(1)

    return body


def divergent_syncwarp(cuda):
    def body(_result):
        if cuda.threadIdx.x:
            cuda.syncwarp()

    return body


def barrier_not_reached_by_all_warps(cuda):
    def body(_result):
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()

    return body


def partial_mask(cuda):
    def body(_result):
        cuda.ballot_sync(0xFFFF, True)

    return body


def missing_barrier(cuda):
    def body(result):
        cells = cuda.shared.array(64, u32)
        i = cuda.threadIdx.x
        cells[i] = i
        result[i] = cells[i ^ 32]

    return body


def write_after_read_without_barrier(cuda):
    def body(result):
        cells = cuda.shared.array(64, u32)
        i = cuda.threadIdx.x
        cells[i] = i
        cuda.syncthreads()
        result[i] = cells[i ^ 32]
        cells[i] = 0

    return body


def missing_syncwarp(cuda):
    def body(result):
        cells = cuda.shared.array(32, u32)
        i = cuda.threadIdx.x
        cells[i] = i
        cuda.ballot_sync(ALL, True)  # orders no memory
        result[i] = cells[i ^ 1]

    return body


def syncwarp_between_warps(cuda):
    def body(result):
        cells = cuda.shared.array(64, u32)
        i = cuda.threadIdx.x
        cells[i] = i
        cuda.syncwarp()
        result[i] = cells[63 - i]

    return body


def same_output_cell(cuda):
    def body(result):
        result[cuda.threadIdx.x // 2] = 1

    return body


def poisoned_shared_memory(cuda):
    def body(result):
        cells = cuda.shared.array(64, u32)
        cells[cuda.threadIdx.x] = 1
        cuda.syncthreads()
        result[0] = cells[32]

    return body


def beyond_the_end(cuda):
    def body(result):
        result[cuda.threadIdx.x + 1] = 1

    return body


def before_the_beginning(cuda):
    def body(result):
        result[cuda.threadIdx.x - 1] = 1

    return body


def float_index(cuda):
    def body(result):
        result[cuda.threadIdx.x / 2] = 1

    return body


FAULTS = [
    (divergent_collective, "threads of one warp wait at different places", 32),
    (different_collectives, "threads of one warp wait at different places", 32),
    (divergent_shuffle_in_device_function, "threads of one warp wait at different places", 32),
    (divergent_syncwarp, "threads of one warp wait at different places", 32),
    (barrier_not_reached_by_all_warps, "warps wait at different places", 64),
    (partial_mask, "mask other than all lanes", 32),
    (missing_barrier, "read before it is written", 64),
    (write_after_read_without_barrier, "race: the shared array", 64),
    (missing_syncwarp, "race: the shared array", 32),
    (syncwarp_between_warps, "read before it is written", 64),
    (same_output_cell, "race: result", 32),
    (poisoned_shared_memory, "read before it is written", 32),
    (beyond_the_end, r"result\[32\] is out of range", 32),
    (before_the_beginning, r"result\[-1\] is out of range", 32),
    (float_index, "indexed with 0.0", 32),
]


@pytest.mark.parametrize(("factory", "says", "threads"), FAULTS, ids=[each[0].__name__ for each in FAULTS])
def test_faults_are_found(factory, says, threads):
    with pytest.raises(KernelError, match=says):
        run(kernel(factory), out(threads), threads=threads)


def test_missing_barriers_are_found_in_any_order_of_warps():
    """Where what is read has been written before: by the warp that ran first."""
    with pytest.raises(KernelError, match=r"race|before it is written"):
        run(kernel(reads_lower_warp), out(64), threads=64)
    with pytest.raises(KernelError, match=r"race|before it is written"):
        run(kernel(reads_lower_warp), out(64), threads=64, order=(1, 0))


def reads_lower_warp(cuda):
    def body(result):
        cells = cuda.shared.array(64, u32)
        i = cuda.threadIdx.x
        cells[i] = i
        result[i] = cells[i & 31]

    return body


def test_blocks_race_too():
    with pytest.raises(KernelError, match="race: result"):
        run(stores_large, out(), grid=2)


def test_inputs_are_not_written_and_fresh_memory_is_not_read():
    constant = out()
    constant.flags.writeable = False
    with pytest.raises(KernelError, match="it is an input"):
        run(stores_large, constant)
    with pytest.raises(KernelError, match="before it is written"):
        run(kernel(copies), Fresh(out()), out())


def copies(cuda):
    def body(source, result):
        result[cuda.threadIdx.x] = source[cuda.threadIdx.x]

    return body


def test_atomics_do_not_race():
    result = out(1)
    run(kernel(votes), result, grid=2)
    assert result[0] == ALL


def votes(cuda):
    def body(result):
        cuda.atomic.or_(result, 0, 1 << cuda.threadIdx.x)

    return body
