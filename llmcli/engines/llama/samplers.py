"""
llama.cpp's samplers and grammars, seen from Python: from the logits of one place to a token.

Thin, as `library` is. A grammar's text must be validated before it comes here: a bad one ends the process.
"""

from __future__ import annotations

import ctypes

import numpy as np
from llama_cpp import llama_cpp as lib

from llmcli.engines.llama.library import Array, LoadError, Model


class Sampler:
    """
    llama.cpp's own sampler chain: top-k, top-p, min-p, temperature, draw.

    top-k comes first: top-p alone over a vocabulary of 152k costs 15–19 ms a token.
    """

    def __init__(self, *, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if temperature <= 0:
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_greedy())
            return
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_min_p(min_p, 1))
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_temp(temperature))
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_dist(seed & 0xFFFFFFFF))

    def choose(self, candidates: Candidates) -> int:
        """Draw one of the candidates; which one stands in `candidates` afterwards."""
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates.struct))
        return candidates.selected()

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_sampler_free(self._chain)


class Grammar:
    """A GBNF grammar as a filter on candidates. The text must be validated before it comes here."""

    def __init__(self, model: Model, gbnf: str) -> None:
        self._sampler = lib.llama_sampler_init_grammar(model._vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise LoadError("the grammar cannot be used")

    def filter(self, candidates: Candidates) -> None:
        """Take away what the grammar does not allow next (logit minus infinity)."""
        lib.llama_sampler_apply(self._sampler, ctypes.byref(candidates.struct))

    def accept(self, token: int) -> None:
        """Go on by this token, which the grammar allows."""
        lib.llama_sampler_accept(self._sampler, token)

    def free(self) -> None:
        """Give the memory back."""
        lib.llama_sampler_free(self._sampler)


class Candidates:
    """Token ids with their logits, as samplers take them."""

    _dtype = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def __init__(self, capacity: int) -> None:
        self._data = np.zeros(capacity, self._dtype)
        self._all = np.arange(capacity, dtype=np.int32)
        self._pointer = self._data.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self.struct = lib.llama_token_data_array()

    def fill(self, logits: Array) -> Candidates:
        """Every token of the vocabulary."""
        self._data["id"] = self._all
        self._data["logit"] = logits
        self._reset(len(logits))
        return self

    def only(self, token: int, logit: float) -> Candidates:
        """A single token."""
        self._data[0] = (token, logit, 0)
        self._reset(1)
        return self

    def _reset(self, size: int) -> None:
        self.struct.data = self._pointer  # a sampler may have put its own there
        self.struct.size = size
        self.struct.selected = -1
        self.struct.sorted = False

    def best(self) -> tuple[int, float]:
        """The likeliest candidate and its logit."""
        data = self._data[: self.struct.size]
        index = int(np.argmax(data["logit"]))
        return int(data["id"][index]), float(data["logit"][index])

    def selected(self) -> int:
        """What a sampler chose."""
        return int(self.struct.data[self.struct.selected].id)
