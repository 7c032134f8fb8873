"""
The recipe on a handful of rows: what must hold whatever the data and the size of the model.

    pytest test_recipe.py       # with requirements.txt installed; a minute on two cores
"""

import gzip
import json
from argparse import Namespace
from collections.abc import Sequence as Several
from dataclasses import replace
from pathlib import Path

import data
import numpy as np
import pytest
import tokenizer as tokenizers
import torch
from export import halves_to_pairs, mixed, pairs_to_halves, quantise, read_weights, write
from mix import CHAT, TASKS, Corpus
from model import Model, Shape, round_q4_0
from sources import asked_about
from torch import nn
from train import Run, collate, losses, options_in, train, visible

TINY = Shape(vocabulary=8192, width=64, layers=2, heads=2, feed_forward=96, context=1024)
PAIRS = [("Where are you?", "Wo bist du?"), ("I am here.", "Ich bin hier."), ("It is cold.", "Es ist kalt.")]
BODY = "The bridge is open again. It was closed for a year. Cars may cross it by day. The cost is not known."

ROWS = {
    "vader_gt": ["positive\tGood.\ttweets\t2", "negative\tBad.\tfilms\t-2", "neutral\tSo.\ttweets\t0"],
    "goemotions": [f"positive\tNice {e}.\t{e}" for e in ("joy", "love", "fear", "anger")],
    "arxiv_titles": [
        json.dumps({"title": "Bridge open", "body": BODY, "cat": c}) for c in ("cs.A", "stat.C")
    ],
    "persona_chat": [json.dumps({"turns": ["Hi!", "Hello!", "How are you?", "Fine."]})],
    "books_ohenry": [json.dumps({"title": "T", "body": BODY})],
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with every kind of row, its tokenizer and its corpus."""
    root = tmp_path_factory.mktemp("recipe")
    for code in ("de", "fr", "es", "zh"):
        put(root, f"tatoeba_{code}", "pairs.tsv.gz", ["\t".join(pair) for pair in PAIRS])
    for name, rows in ROWS.items():
        put(root, name, "rows.gz", rows)
    trained = tokenizers.train(root)
    trained.save(str(root / "tokenizer.json"))
    np.savez_compressed(root / "corpus.npz", **data.build(root, trained, dev=False))
    return root


def put(root: Path, name: str, file: str, rows: Several[str]) -> None:
    path = root / "train" / name / file
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("".join(f"{row}\n" for row in rows).encode()))


def lively(shape: Shape) -> Model:
    """A fresh model writes nothing from its blocks; this one does."""
    torch.manual_seed(0)
    model = Model(shape)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0 if parameter.ndim == 2 else 1.0, 0.1)
    return model


def exported(folder: Path, out: Path) -> Model:
    words = data.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    model = lively(replace(TINY, vocabulary=words))
    write({n: p.detach() for n, p in model.named_parameters()}, model.shape, folder / "tokenizer.json", out)
    return model


@pytest.mark.parametrize("task", TASKS)
def test_a_branch_is_read_as_if_it_stood_alone(folder: Path, task: str):
    if task == "label":
        pytest.skip("draws among genres and topics that three rows do not have")
    sequence = TASKS[task](Corpus(folder / "corpus.npz"), np.random.default_rng(0))
    model, batch = lively(TINY), collate([sequence])

    together = model(batch["tokens"], batch["position"], visible(batch["branch"]))[0]

    last = int(sequence.branch.max())
    own = np.flatnonzero((sequence.branch == 0) | (sequence.branch == last))
    alone = model(torch.tensor(sequence.tokens[own])[None], torch.arange(len(own))[None], None)[0]
    assert torch.allclose(together[own], alone, atol=1e-4)


def test_a_prompt_in_parts_is_the_prompt_as_llm_tokenises_it(folder: Path):
    corpus = Corpus(folder / "corpus.npz")
    tokenizer = data.Tokenizer.from_file(str(folder / "tokenizer.json"))
    row = int(corpus.by_set["vader_gt"][0])

    text = corpus.segment(row, 0)
    whole = data.prompts()["sentiment"] + tokenizer.decode(text)
    assert tokenizer.encode(whole).ids == [*corpus.prompts["sentiment"], *text]


def test_a_sentence_is_asked_about_by_what_it_is_worth(folder: Path):
    corpus = Corpus(folder / "corpus.npz")
    tokenizer = data.Tokenizer.from_file(str(folder / "tokenizer.json"))
    sequence = TASKS["document"](corpus, np.random.default_rng(0))

    asked = {}
    for place in np.flatnonzero(sequence.label):
        question = tokenizer.decode(sequence.tokens[sequence.branch == sequence.branch[place]])
        asked[question.split("\n\n")[-1].removesuffix("yes")] = sequence.share[place]
        assert [tokenizer.decode([t]) for t in (sequence.tokens[place + 1], sequence.other[place])] == [
            "yes",
            "no",
        ]
    worths = [1, 0, 0, 0]  # the title is "Bridge open"
    assert asked == dict(zip((sentence for _, sentence in asked_about(BODY)), worths))


def test_an_answer_between_two_costs_what_it_is_from_each(folder: Path):
    sequence = TASKS["document"](Corpus(folder / "corpus.npz"), np.random.default_rng(0))
    [place, *_] = np.flatnonzero(sequence.label)
    sequence.share[place] = 0.25
    model, batch = lively(TINY), collate([sequence])
    model.bfloat16 = False

    asked = int((batch["weight"][0, :place] > 0).sum())
    loss = losses(model, batch)[0][asked]

    hidden = model(batch["tokens"], batch["position"], visible(batch["branch"]))[0, place]
    said = model.logits(hidden).log_softmax(-1)
    yes, no = sequence.tokens[place + 1], sequence.other[place]
    assert torch.isclose(loss, -0.25 * said[yes] - 0.75 * said[no], atol=1e-4)


def test_the_kinds_of_rows_are_told_apart(folder: Path):
    corpus = Corpus(folder / "corpus.npz")
    assert corpus.draws[CHAT][0] == ["persona_chat"]
    assert sorted(corpus.pair_draws) == ["Chinese", "French", "German", "Spanish"]


def test_each_label_becomes_one_piece_in_the_place_of_a_rare_one():
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = [("w", "o"), ("wo", "rt"), *((a, b) for a in "jqvx" for b in letters), ("r", "t")]
    alphabet = [*tokenizers.CONTROL, *letters, *letters.upper()]
    old = tokenizers.assemble([*alphabet, *(a + b for a, b in merges)], merges)

    new = tokenizers.with_labels(old)

    assert [new.encode(label).tokens for label in tokenizers.LABELS] == [[name] for name in tokenizers.LABELS]
    assert new.get_vocab_size() == old.get_vocab_size()
    assert new.encode("wort").tokens == old.encode("wort").tokens
    kept = new.get_vocab().items() & old.get_vocab().items()
    assert {word for word, _ in kept} == new.get_vocab().keys() & old.get_vocab().keys()
    assert tokenizers.with_labels(new).get_vocab() == new.get_vocab()


def test_a_mean_leaves_out_what_the_earlier_end_has_of_other_pieces(folder: Path, tmp_path: Path):
    model = exported(folder, tmp_path / "old.gguf")
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = words["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary["fresh"] = vocabulary.pop(last)
    words["model"]["merges"] = [pair for pair in words["model"]["merges"] if "".join(pair) != last]
    (tmp_path / "new.json").write_text(json.dumps(words), encoding="utf-8")
    weights = {name: one.detach() + 1 for name, one in model.named_parameters()}

    mean = mixed(weights, tmp_path / "old.gguf", 0.25, tmp_path / "new.json")

    assert torch.allclose(mean["norm.weight"], weights["norm.weight"] - 0.25)
    table, ours = mean["words.weight"], weights["words.weight"]
    assert torch.equal(table[vocabulary["fresh"]], ours[vocabulary["fresh"]])
    assert torch.allclose(table[:-1], ours[:-1] - 0.25)


def test_an_exported_file_gives_the_model_back(folder: Path, tmp_path: Path):
    model = exported(folder, tmp_path / "exact.gguf")
    weights = dict(model.named_parameters())
    for name, weight in read_weights(tmp_path / "exact.gguf").items():
        assert torch.equal(weight, weights[name])


def test_llama_cpp_says_what_the_model_says(folder: Path, tmp_path: Path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = exported(folder, tmp_path / "exact.gguf")
    tokens = [1, 30, 50, 70, 0, 2]
    engine = llama_cpp.Llama(str(tmp_path / "exact.gguf"), n_ctx=64, logits_all=True, verbose=False)
    engine.eval(tokens)

    ours = model.logits(model(torch.tensor([tokens]), torch.arange(len(tokens))[None], None))[0]

    assert np.allclose(np.array(engine.scores[: len(tokens)]), ours.detach().numpy(), atol=0.05)


def test_rounding_keeps_what_llama_cpp_keeps(folder: Path, tmp_path: Path):
    pytest.importorskip("llama_cpp")
    model = exported(folder, tmp_path / "exact.gguf")
    quantise(tmp_path / "exact.gguf", tmp_path / "small.gguf", "Q4_0")

    kept = read_weights(tmp_path / "small.gguf")["blocks.0.up.weight"]
    assert torch.allclose(kept, round_q4_0(model.blocks[0].up.weight.detach()), atol=1e-6)


def test_rows_reordered_come_back():
    weight = np.arange(48.0).reshape(8, 6)
    assert np.array_equal(pairs_to_halves(halves_to_pairs(weight, 2), 2), weight)


def test_a_stopped_run_goes_on_exactly(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("train.SHAPES", {"tiny": TINY})
    monkeypatch.setattr("train.SHARES", {"sentiment": 0.5, "translate": 0.5})

    def run(name: str, *until: int) -> Run:
        for steps in until:
            train(options(folder, tmp_path / name, steps))
        made = Run(TINY, "cpu")
        made.load(tmp_path / name / "checkpoint.pt")
        return made

    once, twice = run("once", 4), run("twice", 2, 4)

    for name, parameter in once.model.named_parameters():
        assert torch.equal(parameter, dict(twice.model.named_parameters())[name]), name


def options(folder: Path, out: Path, steps: int) -> Namespace:
    words = (
        f"--corpus {folder / 'corpus.npz'} --out {out} --steps {steps} --shape tiny --every 1 --dropout 0.1"
    )
    return options_in([*words.split(), "--step-tokens", "600", "--micro-tokens", "600", "--threads", "1"])
