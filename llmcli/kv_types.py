"""The number formats that a KV cache can have. Imports nothing: the command line reads it at every start."""

from __future__ import annotations

from typing import Literal

KvType = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

GGML_TYPES: dict[str, int] = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
"""ggml's number of each, ggml.h."""

ELEMENT_BYTES: dict[str, float] = {
    "f32": 4, "f16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32,
}  # fmt: skip
"""Bytes of one element: blocks of 32 with their scales."""
