"""
Train the model; stop it at any moment and it goes on from its last checkpoint, exactly.

    python train.py --corpus corpus.npz --dev dev.npz --out RUN --steps 3000 --cooldown 600

The learning rate is constant after a short warm-up and falls to nothing over the last `--cooldown` steps, so
the length of a run can be decided while it runs: stop it (SIGTERM saves), start it with other `--steps`.
`--round` trains with the weights rounded as Q4_0 will round them. Nothing here looks at the clock.

Processes that share the work of each step (PyTorch's `torchrun --nproc-per-node 2 -- train.py … --threads 1`)
use the cores of a busy machine better than threads, which wait for each other after every product.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as team
from mix import PASS, SHARES, Corpus, Mix, Sequence
from model import SHAPES, Model, Shape, parameters
from muon import Muon
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

MATRIX_RATE, WORD_RATE = 0.02, 0.003  # Muon for the matrices, AdamW for the word table and the norms
WARM_UP = 60
AVERAGE = 0.995  # the running average of the weights: what is exported before the cooldown
DEV_TASKS = ("sentiment", "translate", "document")

Batch = dict[str, Tensor]


def collate(sequences: list[Sequence]) -> Batch:
    """One padded micro-batch. Padding follows a text and is never asked for, so nothing sees it."""
    length = -(-max(len(s.tokens) for s in sequences) // 32) * 32
    batch = {
        name: torch.zeros(len(sequences), length, dtype=kind)
        for name, kind in (
            ("tokens", torch.long),
            ("branch", torch.int16),
            ("position", torch.long),
            ("weight", torch.float32),
            ("label", torch.bool),
            ("share", torch.float32),
            ("other", torch.long),
        )
    }
    for i, sequence in enumerate(sequences):
        for name, table in batch.items():
            values = torch.from_numpy(np.asarray(getattr(sequence, name)))
            table[i, : len(values)] = values.to(table.dtype)
    batch["length"] = torch.tensor([len(s.tokens) for s in sequences])
    batch["task"] = torch.tensor([DEV_TASKS.index(s.task) if s.task in DEV_TASKS else -1 for s in sequences])
    return batch


def visible(branch: Tensor) -> Tensor:
    """Who sees whom: everyone the trunk and its own branch, backwards only."""
    asks, seen = branch.unsqueeze(2), branch.unsqueeze(1)
    earlier = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    return (earlier & ((seen == 0) | (seen == asks))).unsqueeze(1)


def losses(model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """For each token that counts: its loss, its weight, and whether the first guess was right."""
    device = model.words.weight.device
    tokens = batch["tokens"].to(device)
    weight = batch["weight"].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=model.bfloat16):
        hidden = model(tokens, batch["position"].to(device), visible(batch["branch"].to(device)))
        asked = weight > 0
        logits = model.logits(hidden[asked]).float()
    target = tokens.roll(-1, 1)[asked]
    # A label between two answers: the cross-entropy to both, each by its share.
    share, other = (batch[name].to(device)[asked] for name in ("share", "other"))
    apart = (logits.gather(1, target[:, None]) - logits.gather(1, other[:, None]))[:, 0]
    loss = functional.cross_entropy(logits, target, reduction="none") + (1 - share) * apart
    return loss, weight[asked], logits.argmax(1) == target


class Steps(Dataset):
    """The mix as a list of steps, so that worker processes can weave ahead of a GPU."""

    def __init__(self, mix: Mix, first: int, last: int) -> None:
        self.mix, self.first, self.last = mix, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, i: int) -> list[Batch]:
        return [collate(sequences) for sequences in self.mix.step(self.first + i)]


class Run:
    """A model in training: its weights, their average, the optimizers, and the number of the next step."""

    def __init__(self, shape: Shape, device: str) -> None:
        self.model = Model(shape).to(device)
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and not n.startswith("words")]
        others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or n.startswith("words")]
        self.optimizers = [
            Muon(matrices, lr=MATRIX_RATE, weight_decay=0.05, momentum=0.95),
            torch.optim.AdamW(others, lr=WORD_RATE, betas=(0.9, 0.95), weight_decay=0.01),
        ]
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.step = self.tokens = 0

    def compute_in(self, kind: torch.dtype) -> None:
        """The type of the products; the weights stay float32."""
        self.model.bfloat16 = kind == torch.bfloat16
        self.optimizers[0].products = kind

    def learn(self, batches: list[Batch], rate: float) -> float:
        torch.manual_seed(self.step)  # dropout's, so that a resumed run draws the same
        total = sum(float(batch["weight"].sum()) for batch in batches)
        self.tokens += sum(int(batch["length"].sum()) for batch in batches)
        said = torch.zeros(1)
        for batch in own_part(batches):
            loss, weight, _ = losses(self.model, batch)
            loss = (loss * weight).sum() / total
            loss.backward()
            said += float(loss.detach())
        if team.is_initialized():
            self.add_up(said)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, top in zip(self.optimizers, (MATRIX_RATE, WORD_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = top * rate
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        keep = min(AVERAGE, self.step / (self.step + 10))
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - keep)
        return float(said)

    def add_up(self, said: Tensor) -> None:
        """The sum of all processes' gradients, and of the loss that each has seen."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model.parameters()]
        together = torch.cat([said, *(gradient.flatten() for gradient in gradients)])
        team.all_reduce(together)
        said.copy_(together[:1])
        sizes = [p.numel() for p in self.model.parameters()]
        for p, part in zip(self.model.parameters(), together[1:].split(sizes)):
            p.grad = part.view_as(p)

    def save(self, path: Path) -> None:
        state = {
            "shape": asdict(self.model.shape),
            "step": self.step,
            "tokens": self.tokens,
            "average": self.average,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)  # a kill at any moment leaves a whole file

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.model.words.weight.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.average, self.step, self.tokens = state["average"], state["step"], state["tokens"]


def own_part(batches: list[Batch]) -> list[Batch]:
    """The micro-batches of this process: the largest left goes to the one with the least to do."""
    if not team.is_initialized():
        return batches
    work, parts = [0] * team.get_world_size(), [[] for _ in range(team.get_world_size())]
    for batch in sorted(batches, key=lambda batch: -batch["tokens"].numel()):
        idlest = work.index(min(work))
        parts[idlest].append(batch)
        work[idlest] += batch["tokens"].numel() + PASS
    return parts[team.get_rank()]


def anybody(stop: list[int]) -> bool:
    """Has any process been told to stop? All of them must at the same step."""
    if not team.is_initialized():
        return bool(stop)
    told = torch.tensor([len(stop)])
    team.all_reduce(told)
    return bool(told)


def rate_at(step: int, steps: int, cooldown: int) -> float:
    """
    The learning rate as a part of the highest.

    >>> [rate_at(step, steps=1000, cooldown=100) for step in (29, 500, 950)]
    [0.5, 1.0, 0.5]
    """
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / max(cooldown, 1))


@torch.no_grad()
def examine(run: Run, dev: list[Batch]) -> dict[str, float]:
    """Loss by task and the share of right labels on the development rows, with the averaged weights."""
    own = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.model.eval()
    run.model.load_state_dict(run.average, strict=False)
    sums: dict[str, float] = defaultdict(float)
    for batch in dev:
        task = DEV_TASKS[int(batch["task"][0])]
        loss, weight, right = losses(run.model, batch)
        asked = batch["weight"] > 0
        label, sure = (part[asked].to(weight.device) for part in (batch["label"], batch["share"] == 1))
        answer = (weight == 1.0) & ~label
        for name, values in (
            ("loss", loss[answer]),
            ("label loss", loss[label]),
            ("right", right[label & sure].float()),
        ):
            sums[f"{task} {name}"] += float(values.sum())
            sums[f"{task} {name} n"] += len(values)
    run.model.load_state_dict(own, strict=False)
    run.model.train()
    return {
        name: round(value / sums[f"{name} n"], 4)
        for name, value in sums.items()
        if not name.endswith(" n") and sums[f"{name} n"]
    }


def dev_batches(path: Path, count: int = 48) -> list[Batch]:
    corpus, found = Corpus(path), []
    for task in DEV_TASKS:
        mix = Mix(corpus, seed=1, step_tokens=256 * count, micro_tokens=8192, shares={task: 1.0})
        found += [collate(sequences) for sequences in mix.step(0)]
    return found


def train(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    if team.is_torchelastic_launched():
        team.init_process_group("gloo" if device == "cpu" else "nccl")
    first = not team.is_initialized() or team.get_rank() == 0  # who says and saves
    if device == "cpu":
        torch.set_num_threads(options.threads)
    run = Run(SHAPES[options.shape], device)
    checkpoint = options.out / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif options.start:
        from export import read_weights

        run.model.load_state_dict(read_weights(options.start), strict=False)
    run.model.round_weights(options.round)
    run.model.drop_out(options.dropout)
    run.compute_in(torch.float32 if options.float32 else torch.bfloat16)
    if options.compile:
        run.model.compile_blocks()
    if first:
        print(f"{parameters(run.model):,} parameters on {device}, from step {run.step}", flush=True)

    mix = Mix(Corpus(options.corpus), options.seed, options.step_tokens, options.micro_tokens, SHARES)
    dev = dev_batches(options.dev) if options.dev and first else []
    steps = DataLoader(Steps(mix, run.step, options.steps), batch_size=None, num_workers=options.workers)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))

    with (options.out / "log.jsonl" if first else Path(os.devnull)).open("a", encoding="utf-8") as log:
        for line in follow(run, steps, dev, options, checkpoint if first else None, stop):
            log.write(json.dumps(line) + "\n")
            log.flush()
    if first:
        run.save(checkpoint)


def follow(
    run: Run,
    steps: DataLoader,
    dev: list[Batch],
    options: argparse.Namespace,
    checkpoint: Path | None,
    stop: list[int],
) -> Iterator[dict[str, float]]:
    """Take the steps; now and then say how it goes."""
    said, since, tokens = 0.0, time.process_time(), run.tokens
    for batches in steps:
        said += run.learn(batches, options.rate * rate_at(run.step, options.steps, options.cooldown))
        if run.step % options.every == 0:
            spent = time.process_time() - since
            line: dict[str, float] = {
                "step": run.step,
                "tokens": run.tokens,
                "loss": round(said / options.every, 4),
                "tokens_per_cpu_second": round((run.tokens - tokens) / spent),  # of this process
            }
            said, since, tokens = 0.0, time.process_time(), run.tokens
            if dev and run.step % (10 * options.every) == 0:
                line |= examine(run, dev)
            yield line
        if checkpoint and run.step % options.save_every == 0:
            run.save(checkpoint)
        if anybody(stop):
            sys.stderr.write(f"stopped after step {run.step}; the same command goes on from there\n")
            return


def options_in(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--dev", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, help="an exported GGUF to begin from, where there is no checkpoint"
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--cooldown", type=int, default=0)
    parser.add_argument(
        "--rate", type=float, default=1.0, help="of learning: less where a trained model goes on"
    )
    parser.add_argument("--round", action="store_true", help="round the weights as Q4_0 does")
    parser.add_argument("--float32", action="store_true", help="for a processor that has no bfloat16")
    parser.add_argument("--dropout", type=float, default=0.0, help="for many epochs over the same rows")
    parser.add_argument("--compile", action="store_true", help="with TorchInductor: needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-tokens", type=int, default=8192)
    parser.add_argument("--micro-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=100)
    return parser.parse_args(words)


if __name__ == "__main__":
    train(options_in())
