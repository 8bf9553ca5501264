"""A program: compile kernels of each kind for aarch64, on any machine, and print which of them are not in the result.

Numba compiles for the portable instruction set; its LLVM code is taken as Numba wrote it, before LLVM optimised it for
the processor at hand, and is given to LLVM's backend for aarch64. An x86 intrinsic among it ends the process.
"""

from __future__ import annotations

import json
import re

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import codegen

from kernels import check

TRIPLE = "aarch64-unknown-linux-gnu"


def modules_of(action) -> list[str]:
    """The LLVM code that Numba makes while `action` compiles."""
    taken: list[str] = []
    add = codegen.CPUCodeLibrary.add_ir_module

    def add_and_take(library, module):
        taken.append(str(module))
        add(library, module)

    codegen.CPUCodeLibrary.add_ir_module = add_and_take
    try:
        action()
    finally:
        codegen.CPUCodeLibrary.add_ir_module = add
    return taken


def assembly(modules: list[str]) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(opt=1)
    whole = llvm.parse_assembly("")
    for text in modules:
        text = re.sub(r"^target triple = .*$", f'target triple = "{TRIPLE}"', text, flags=re.MULTILINE)
        text = re.sub(r"^target datalayout = .*$", "", text, flags=re.MULTILINE)
        whole.link_in(llvm.parse_assembly(text))
    whole.data_layout = str(machine.target_data)
    return machine.emit_assembly(whole)


def array(dtype: type) -> numba.types.Array:
    return numba.types.Array(numba.from_dtype(np.dtype(dtype)), 1, "C")


U8, U16, U32, I64, F64 = map(array, (np.uint8, np.uint16, np.uint32, np.int64, np.float64))
INT = numba.int64
DECODER = (U32, INT, U32, U16, I64)
KERNELS = {
    check.decode_kernels.decode_fields_u8: (*DECODER, U8),
    check.decode_kernels.decode_u16_6_10: (*DECODER, U8, U8, U16),
    check.decode_kernels.decode_u32_8_8_6_10: (*DECODER, U8, U8, U8, U8, U32),
    check.search_kernels.decode_u16_6_10: (U32, U16, *DECODER[1:], U8, U8, U16),
    check.search.plant: (U32, U16),
    check.bypass.decode_bypass: (U32, U32, U16, I64, U16),
    check.bypass.encode_bypass: (U16, U32, INT, U16, U32, I64),
    check.casts.compare_rounded: (U32, U16),
    check.closing.close_chunk: (U8, U16, I64, INT, INT, INT, U16, U32, U16, U32, I64, U16, U8),
    check.encode.encode_symbols: (U8, U32, INT, U32, U16, U32, I64),
    check.encode_few.encode_few: (U8, U16, U16, U16, U32, I64),
    check.survey.survey: (U16, INT, numba.float64, I64, INT, F64, U16, U32, I64, I64, U16, I64),
    check.histogram.field_histogram: (U16, INT, INT, INT, INT, U16, U32),
    check.split.split_u16_6_10: (U16, INT, INT, U8, U8, U8),
    check.planes.unpack: (INT, U8, U8),
    check.rows.compact_rows: (U8, U8, INT, INT, U8),
    check.scatter_kernels.decode_u16_4_12: (*DECODER, U8, U32, U16, U32, I64, U16, U16),
    check.sparse.spread_values: (U32, U16, U16),
    check.sparse.squeeze_values: (U16, U32, U16),
    check.table.build_table: (U16, INT, U32),
}


def compile_all() -> None:
    for kernel, signature in KERNELS.items():
        numba.njit(nogil=True, error_model="numpy")(kernel.py_func).compile(signature)


def main() -> None:
    modules = modules_of(compile_all)
    assert len(modules) > len(KERNELS)
    assert not any("llvm.x86" in text for text in modules)
    code = assembly(modules)
    missing = [kernel.__name__ for kernel in KERNELS if kernel.__name__ not in code]
    print(json.dumps({"missing": missing, "instructions": len(re.findall(r"^\tldr", code, re.MULTILINE))}))


if __name__ == "__main__":
    main()
