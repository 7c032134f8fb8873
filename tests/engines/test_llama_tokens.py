"""
Exact text: a document never speaks for the chat template, and nothing is lost on the way back.

These tests look at token ids, which no door of llm shows, so they use the engine's tokenizer directly.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from engines.conftest import ask
from ggufs import BOOL, CONTROL, QWEN_LIKE, THINKING, byte_characters, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.library import Log, Model, is_control
from llmcli.engines.llama.tokens import Tokenizer, common_prefix
from llmcli.engines.llama.writer import TextBuilder
from llmcli.messages import Message, Prompt
from llmcli.paths import PACKAGE

STARTER = PACKAGE / "models" / "starter" / "starter.gguf"
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
CASES = {
    "starter": None,
    "bpe": tiny("llama"),
    "thinking": tiny("qwen2", template=QWEN_LIKE),
    "plain": tiny("llama", template=PLAIN),
    "SentencePiece": tiny("llama", vocabulary="spm"),
    "SentencePiece, plain": tiny("llama", vocabulary="spm", template=PLAIN),
    "SentencePiece without a space": tiny("llama", vocabulary="spm").set(
        "tokenizer.ggml.add_space_prefix", BOOL, False
    ),
}


@dataclass
class Loaded:
    """A model's vocabulary, and what is compared: our tokenizer, and llama.cpp's on a whole string."""

    model: Model
    as_it_is: Model
    tokenizer: Tokenizer
    space: str  # that a SentencePiece model puts before a text
    own: set[int]  # the control tokens, and the user-defined ones that the template uses


@pytest.fixture(scope="module", params=list(CASES))
def loaded(request, tmp_path_factory):
    made = CASES[request.param]
    path = STARTER
    if made is not None:
        path = tmp_path_factory.mktemp("model") / "tiny.gguf"
        made.write(path)
    sentencepiece = request.param.startswith("SentencePiece")
    space = " " if sentencepiece and "without" not in request.param else ""
    model = Model(str(path), Log(), no_space_prefix=sentencepiece)
    as_it_is = Model(str(path), Log())
    template = ChatTemplate(
        model.chat_template(),
        bos=model.token_text(model.bos),
        eos=model.token_text(model.eos),
        started=datetime.datetime(2026, 1, 1),
    )
    tokenizer = Tokenizer(model, template, space_prefix=bool(space))
    own = {token for token, bits in model.special_tokens().items() if is_control(bits)}
    own |= {tokenizer._special[mark] for mark in tokenizer._user_defined_marks()}
    yield Loaded(model, as_it_is, tokenizer, space, own)
    model.free()
    as_it_is.free()


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from([*CONTROL, *THINKING, "<|im_end|>", "</s>", "<s>", "[INST]", "<|", "|>", "\n", " "]),
        st.sampled_from(["\ue0000\ue001", "\ue000", "\ue001", "\ue002\ue003\ue002"]),
        st.text(max_size=12),
    ),
    max_size=8,
).map("".join)


def check_injection(loaded, content):
    innocent = loaded.tokenizer.encode(ask("an innocent text"))
    attacked = loaded.tokenizer.encode(ask(f"x{content}x"))
    assert [t for t in innocent if t in loaded.own] == [t for t in attacked if t in loaded.own]


@settings(max_examples=40, deadline=None)
@given(content=HOSTILE)
def test_a_text_never_becomes_a_control_token(loaded, content):
    check_injection(loaded, _encodable(content))


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(content=HOSTILE)
def test_ten_thousand_texts_never_become_control_tokens(loaded, content):
    check_injection(loaded, _encodable(content))


def _encodable(text):
    return text.encode("utf-8", "replace").decode()


def test_private_characters_of_a_text_are_read(loaded):
    text = "a\ue002\ue003\ue002b \ue0000\ue001 c"
    pieces = b"".join(loaded.model.piece(token) for token in loaded.tokenizer.encode(ask(text)))
    assert text.encode() in pieces


WORDS = st.lists(
    st.sampled_from(
        [
            "the",
            "text",
            "is positive",
            ".",
            ",",
            "!",
            "12",
            "Ünïcode",
            "中文",
            "🙂",
            "a-b",
            "don't\nnew",
            "\tx",
        ]
    ),
    min_size=1,
    max_size=20,
).map(" ".join)


def check_ordinary(loaded, content):
    content, model = content.strip(), loaded.as_it_is
    if not content:
        return
    parts, contents = loaded.tokenizer._template.layout(
        ask(content).messages, thinking=False, continue_last=False
    )
    whole = "".join(part if isinstance(part, str) else contents[part] for part in parts)
    tokens = model.tokenize(whole, special=True)
    if model.add_bos and tokens[:1] != [model.bos]:
        tokens = [model.bos, *tokens]
    assert tokens == loaded.tokenizer.encode(ask(content))


@settings(max_examples=40, deadline=None)
@given(content=WORDS)
def test_ordinary_text_tokenises_as_the_whole_rendered_string_does(loaded, content):
    check_ordinary(loaded, content)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(content=WORDS)
def test_ten_thousand_ordinary_texts_tokenise_as_the_whole_string(loaded, content):
    check_ordinary(loaded, content)


@settings(max_examples=40, deadline=None)
@given(content=st.text(max_size=60).map(_encodable))
def test_a_text_comes_back_from_its_tokens(loaded, content):
    if any(mark in content for mark in THINKING):
        return
    builder = TextBuilder()
    tokens = loaded.tokenizer._text(content)
    streamed = "".join(builder.add(loaded.model.piece(token)) for token in tokens)
    assert streamed + builder.finish() == (loaded.space + content if content else "")


def test_every_tokens_whole_piece_comes_out(loaded):
    model = loaded.model
    special = model.special_tokens()
    written = _bytes_of_spm if model.sentencepiece else _bytes_of_bpe
    lost = [
        token
        for token in range(model.vocab_size)
        if token not in special and model.piece(token) != written(model.token_text(token))
    ]
    assert not lost


def _bytes_of_bpe(text):
    table = {character: byte for byte, character in enumerate(byte_characters())}
    return bytes(table[character] for character in text)


def _bytes_of_spm(text):
    if text == "<unk>":
        return b""  # it stands for no text
    byte = re.fullmatch("<0x(..)>", text)
    return bytes.fromhex(byte[1]) if byte else text.replace("▁", " ").encode()


def test_a_reply_keeps_its_ids_in_the_next_prompt(loaded):
    model, tokenizer = loaded.model, loaded.tokenizer
    odd = [token for letter in "Hello" for token in model.tokenize(letter)]  # not how the tokenizer would
    tokenizer.remember("Hello", odd)

    first = tokenizer.encode(ask("Hi"))
    messages = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "And?"))
    second = tokenizer.encode(Prompt(messages))

    shared = common_prefix(first + odd, second)
    assert shared >= len(first) + len(odd) or shared >= tokenizer.stable(ask("Hi"), first)


LOG_DROPPED = """
import gc, sys
import llama_cpp
from llmcli.engines.llama.library import Log, Model
Model(sys.argv[1], Log()).free()
gc.collect()
memory = [bytes([255]) * size for size in range(16, 512, 8) for _ in range(3000)]  # over what was freed
assert llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
print("alive")
"""


def test_llama_cpp_may_speak_after_its_log_is_dropped():
    done = subprocess.run([sys.executable, "-c", LOG_DROPPED, STARTER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
