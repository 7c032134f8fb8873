"""
Write a checkpoint as GGUF, with our chat template, and quantise it with llama.cpp's own quantiser.

    python export.py --checkpoint RUN/checkpoint.pt --tokenizer tokenizer.json --out starter.gguf --type Q8_0
"""

import argparse
import ctypes
import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from model import Shape
from tokenizer import CONTROL, END, of_gguf
from tokenizers import Tokenizer
from torch import Tensor

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

NAMES = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.output": "attn_output",
    "feed_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def gguf_name(name: str) -> str:
    """
    Our name of a tensor in llama.cpp's words.

    >>> gguf_name("blocks.3.attention.q.weight"), gguf_name("words.weight")
    ('blk.3.attn_q.weight', 'token_embd.weight')
    """
    if name == "words.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, number, part = name.removesuffix(".weight").split(".", 2)
    return f"blk.{number}.{NAMES[part]}.weight"


def halves_to_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """
    Reorder a query or key matrix: we turn halves of a head against each other, llama.cpp neighbours.

    >>> halves_to_pairs(np.arange(4).reshape(4, 1), heads=1).ravel().tolist()
    [0, 2, 1, 3]
    """
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def pairs_to_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    rows, width = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def write(weights: dict[str, Tensor], shape: Shape, tokenizer: Path, out: Path) -> None:
    """A GGUF in 32-bit floats: the quantiser rounds from the exact values."""
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_name("starter")
    writer.add_description(
        "The built-in model of llmcli: labels, translates, extracts, titles. Made by its training/ folder."
    )
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    add_tokenizer(writer, json.loads(tokenizer.read_text(encoding="utf-8"))["model"])
    for name, weight in weights.items():
        values = weight.float().cpu().numpy()
        if name.endswith(("attention.q.weight", "attention.k.weight")):
            values = halves_to_pairs(values, shape.heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, bpe: dict) -> None:
    words = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if word in CONTROL else gguf.TokenType.NORMAL for word in words]
    )
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    for add in (writer.add_eos_token_id, writer.add_bos_token_id, writer.add_pad_token_id):
        add(bpe["vocab"][END])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def quantise(source: Path, out: Path, kind: str) -> None:
    import llama_cpp  # only here: a checkpoint can be read and written without llama.cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = 2
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        raise SystemExit(f"llama.cpp could not quantise {source} to {kind}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of an exported file by our names, to train on from it."""
    return {name: torch.from_numpy(values) for name, values in _read(gguf.GGUFReader(str(path)))}


def mixed(weights: dict[str, Tensor], end: Path, share: float, tokenizer: Path) -> dict[str, Tensor]:
    """
    The mean with the weights of an earlier end, which has `share` of it.

    What an exported one has for pieces that `tokenizer` has no longer is left out: those in their places
    stay as they are.
    """
    if end.suffix == ".gguf":
        other = read_weights(end)
        vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab()
        theirs = of_gguf(end).get_vocab()
        fresh = [number for word, number in vocabulary.items() if theirs.get(word) != number]
        other["words.weight"][fresh] = weights["words.weight"][fresh]
    else:
        other = torch.load(end, map_location="cpu", weights_only=True)["model"]
    return {name: share * other[name] + (1 - share) * one for name, one in weights.items()}


def _read(reader: gguf.GGUFReader) -> Iterator[tuple[str, np.ndarray]]:
    heads = int(reader.fields["llama.attention.head_count"].contents())
    found = {tensor.name: tensor for tensor in reader.tensors}
    layers = int(reader.fields["llama.block_count"].contents())
    names = [
        "words.weight",
        "norm.weight",
        *(f"blocks.{i}.{part}.weight" for i in range(layers) for part in NAMES),
    ]
    for name in names:
        tensor = found[gguf_name(name)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if name.endswith(("attention.q.weight", "attention.k.weight")):
            values = pairs_to_halves(values, heads)
        yield name, np.array(values, dtype=np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--type", default="Q8_0", help="Q8_0, Q4_0, F16, or ALL_F32 for no rounding")
    parser.add_argument(
        "--average",
        action="store_true",
        help="the running average of the weights: better before the cooldown",
    )
    parser.add_argument(
        "--mix",
        type=Path,
        metavar="FILE",
        help="checkpoint or exported GGUF of an earlier end of the same run",
    )
    parser.add_argument("--share", type=float, default=0.35, help="of --mix in the mean of the two's weights")
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    exact = options.out.with_suffix(".f32.gguf")
    weights = state["average" if options.average else "model"]
    if options.mix:
        weights = mixed(weights, options.mix, options.share, options.tokenizer)
    write(weights, Shape(**state["shape"]), options.tokenizer, exact)
    if options.type == "ALL_F32":
        exact.replace(options.out)
    else:
        quantise(exact, options.out, options.type)
        exact.unlink()
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB after step {state['step']}, {state['tokens']:,} tokens")
