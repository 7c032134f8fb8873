"""
Begin a run from a smaller exported model with another tokenizer: wider, and with what it knows kept.

    python grow.py --from small.gguf --tokenizer tokenizer.json --out RUN/checkpoint.pt

A token that both vocabularies have keeps its embedding; a new one starts as the mean of the old tokens that
spell it, a label as the first of them, which was expected in its place. New numbers of the hidden state start
near zero, new heads and feed-forward units write nothing at first, so the wider model says at its first step
about what the small one says.
"""

import argparse
from pathlib import Path

import torch
from export import read_weights
from model import SHAPES, Model, parameters
from tokenizer import LABELS, of_gguf
from tokenizers import Tokenizer
from torch import Tensor
from train import Run

QUIET = 0.1  # how loud a new number of the hidden state is beside the old ones


def grown_words(old: Tensor, small: Tokenizer, large: Tokenizer, width: int) -> tuple[Tensor, int]:
    """The new word table, and how many of its tokens the old one has."""
    known = small.get_vocab()
    table = torch.empty(large.get_vocab_size(), old.shape[1])
    shared = 0
    for word, number in large.get_vocab().items():
        shared += word in known
        # A token is spelled in byte-level characters, so the merges apply to it as it stands.
        pieces = [known[word]] if word in known else [known[p.value] for p in small.model.tokenize(word)]
        table[number] = old[pieces[: 1 if word in LABELS else None]].mean(0)
    fresh = torch.randn(len(table), width - old.shape[1]) * table.std() * QUIET
    return torch.cat((table, fresh), 1), shared


def grown(name: str, old: Tensor, new: Tensor, ratio: float) -> Tensor:
    """One weight of the wider model: `new` is its fresh start, the old values go to its corner."""
    if (
        old.ndim == 1
    ):  # a norm: the mean square is now taken over more numbers, most of the new ones near zero
        made = torch.full_like(new, float(old.mean()) * ratio)
        made[: len(old)] = old * ratio
        return made
    rows, columns = old.shape
    made = new.clone()
    if name.endswith(("output.weight", "down.weight")):
        made.zero_()
        made[rows:, :columns] = torch.randn(made.shape[0] - rows, columns) * old.std() * QUIET
    made[:rows, :columns] = old
    return made


def grow(source: Path, tokenizer: Path, model: Model) -> None:
    weights = read_weights(source)
    fresh = dict(model.named_parameters())
    large = Tokenizer.from_file(str(tokenizer))
    words, shared = grown_words(weights.pop("words.weight"), of_gguf(source), large, model.shape.width)
    ratio = (weights["norm.weight"].numel() / model.shape.width) ** 0.5
    made = {name: grown(name, old, fresh[name].detach(), ratio) for name, old in weights.items()}
    model.load_state_dict(made | {"words.weight": words}, strict=False)
    print(f"{shared:,} of {len(words):,} tokens known; {parameters(model):,} parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    options = parser.parse_args()
    torch.manual_seed(0)
    run = Run(SHAPES[options.shape], "cpu")
    grow(options.source, options.tokenizer, run.model)
    run.average = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.save(options.out)
