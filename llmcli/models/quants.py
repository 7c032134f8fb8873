"""
Quantisations: their names, their bits per weight, and which file of a repository is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

DEFAULT = "Q4_K_M"

# Bits per weight of a whole file, as llama.cpp's tools/quantize/README.md measures them on Llama 3.1 8B;
# of the pure block types (Q4_0, Q5_0, MXFP4, …) those of their blocks. The sizes that others added to
# llama.cpp's (_L, _XL) are taken for the nearest of its own.
BITS: dict[str, float] = {
    "IQ1_S": 2.00, "IQ1_M": 2.15, "IQ2_XXS": 2.38, "IQ2_XS": 2.59, "IQ2_S": 2.74, "IQ2_M": 2.93,
    "Q2_K_S": 2.97, "Q2_K": 3.16, "IQ3_XXS": 3.25, "IQ3_XS": 3.50, "Q3_K_S": 3.64, "IQ3_S": 3.66,
    "IQ3_M": 3.76, "Q3_K_M": 4.00, "Q3_K": 4.00, "Q3_K_L": 4.30, "MXFP4": 4.25, "IQ4_XS": 4.46, "NVFP4": 4.5,
    "Q4_0": 4.5, "Q4_K_S": 4.67, "IQ4_NL": 4.68, "Q4_K_M": 4.89, "Q4_K": 4.89, "Q4_K_L": 4.9, "Q4_1": 5.0,
    "Q5_0": 5.5, "Q5_K_S": 5.57, "Q5_K_M": 5.70, "Q5_K": 5.70, "Q5_K_L": 5.75, "Q5_1": 6.0, "Q6_K": 6.56,
    "Q6_K_L": 6.6, "Q2_K_XL": 3.2, "Q3_K_XL": 4.3, "Q4_K_XL": 4.9, "Q5_K_XL": 5.75, "Q6_K_XL": 6.6,
    "Q2_K_L": 3.2, "Q8_K_XL": 8.6, "Q8_0": 8.5, "F16": 16.0, "BF16": 16.0, "F32": 32.0, "TQ1_0": 1.69,
    "TQ2_0": 2.06,
}  # fmt: skip

_NAME = re.compile(r"(?:^|[-._/])(" + "|".join(sorted(BITS, key=len, reverse=True)) + r")(?=$|[-._/])", re.I)
_SPLIT = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
_NOT_MODELS = re.compile(r"(?:^|[-._/])(mmproj|imatrix|lora|adapter)(?=$|[-._/])", re.I)


def quant_of(name: str) -> str:
    """
    The quantisation that a file's name tells, or an empty text.

    >>> quant_of("Qwen3-0.6B.Q4_K_M.gguf"), quant_of("gpt-oss-20b-mxfp4.gguf"), quant_of("model.gguf")
    ('Q4_K_M', 'MXFP4', '')
    """
    found = _NAME.findall(name.removesuffix(".gguf"))
    return found[-1].upper() if found else ""


def model_files(names: Iterable[str]) -> list[str]:
    """
    The language models among a repository's files; of a split one the first part.

    >>> model_files(["a-Q4_0.gguf", "mmproj-a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"])
    ['a-Q4_0.gguf', 'b-00001-of-00002.gguf']
    """

    def wanted(name: str) -> bool:
        part = _SPLIT.search(name)
        return name.endswith(".gguf") and not _NOT_MODELS.search(name) and (not part or part[1] == "00001")

    return sorted(name for name in names if wanted(name))


def choose(names: Iterable[str], wanted: str = "") -> str | None:
    """
    The file that is meant: of this quantisation or name, else Q4_K_M, else the nearest to it in size.

    Of two as near the larger; None where nothing fits what was asked for.

    >>> choose(["m-Q8_0.gguf", "m-Q4_K_M.gguf"]), choose(["m-Q8_0.gguf", "m-Q5_K_M.gguf"])
    ('m-Q4_K_M.gguf', 'm-Q5_K_M.gguf')
    >>> choose(["m-Q8_0.gguf"], "Q4_K_M") is None
    True
    >>> choose(["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], "UD-Q4_K_XL")
    'm-UD-Q4_K_XL.gguf'
    """
    files = model_files(names)
    if wanted:
        exact = [name for name in files if wanted in (name, name.rsplit("/", 1)[-1])]
        quant = wanted.upper()
        inside = [name for name in files if f"-{quant}." in f"-{name.upper()}"]  # also UD-Q4_K_XL
        return next(iter(exact or inside or [name for name in files if quant_of(name) == quant]), None)
    return min(files, key=_distance, default=None)


def _distance(name: str) -> tuple[float, float, int]:
    bits = BITS.get(quant_of(name), 64.0)
    return (abs(bits - BITS[DEFAULT]), -bits, len(name))
