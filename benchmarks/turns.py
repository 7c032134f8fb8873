"""
What a chat's tenth turn costs before its first token, beside a fresh prompt of what is new in it.

    python benchmarks/turns.py [--model FILE] [--rounds 3]

New in a turn are the previous reply and the message. Two chat templates: one keeps a reply as it was
written, under the header it was written under; the other one's header holds an empty thinking block that is
gone from earlier turns (as Qwen3's), so that the last reply is rendered anew and must be read again. The
fresh prompt stands in another sequence and shares nothing. In every round the chat and the fresh prompt take
turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import make_model
import texts
from engine import load, machine

from llmcli.engines import open_engine
from llmcli.engines.base import Engine, EngineOptions
from llmcli.messages import Completion, Message, Prompt, Sampling

HEADER = "<|im_start|>assistant\n"
THOUGHT = "<think>\n\n</think>\n\n"
TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + HEADER + "{% endif %}"
)
TEMPLATES = {"keeps the reply": TURNS, "rewrites the last reply": TURNS.replace(HEADER, HEADER + THOUGHT)}
REPLY = 100  # tokens


def answer(engine: Engine, messages: list[Message], seed: int) -> tuple[float, Completion]:
    """Seconds until the first piece, and the whole reply."""
    begun, first = time.perf_counter(), 0.0
    for item in engine.stream(
        Prompt(tuple(messages)), Sampling(max_tokens=REPLY, temperature=1.0, seed=seed)
    ):
        first = first or time.perf_counter() - begun
        if isinstance(item, Completion):
            return first, item
    raise SystemExit("the answer has no end")


def round_of(engine: Engine, turns: int, number: int) -> dict[str, float]:
    """One conversation, then the fresh prompt."""
    messages: list[Message] = []
    for turn, said in enumerate(texts.turns(turns)):
        messages.append(Message("user", f"{said} (Conversation {number}.)" if not turn else said))
        seconds, reply = answer(engine, messages, seed=100 * number + turn)
        messages.append(Message("assistant", reply.text))
    previous, said = messages[-3].content, messages[-2].content
    new = [Message("user", f"{number}: {previous}\n{said}")]
    fresh, other = answer(engine, new, seed=number)
    return {
        "turn": seconds,
        "evaluated": reply.usage.prompt - reply.usage.cached,
        "prompt": reply.usage.prompt,
        "fresh": fresh,
        "fresh evaluated": other.usage.prompt - other.usage.cached,
    }


def main() -> None:
    """Measure and print one line for each template."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="default: the random model of make_model.py")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    model = given.model or make_model.model_file()
    print(f"{machine()}, {given.threads} threads, load {load()} before\n")
    print(
        f"| chat template | turn {given.turns}, s | tokens read, of | fresh prompt, s | tokens read | ratio |"
    )
    print("|---|---|---|---|---|---|")
    for name, template in TEMPLATES.items():
        engine = open_engine(str(model), EngineOptions(threads=given.threads, chat_template=template))
        found = [round_of(engine, given.turns, number) for number in range(1, given.rounds + 1)]
        engine.close()
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        ratio = statistics.median(one["turn"] / one["fresh"] for one in found)
        print(
            f"| {name} | {middle['turn']:.3g} | {middle['evaluated']:.0f} of {middle['prompt']:.0f} | "
            f"{middle['fresh']:.3g} | {middle['fresh evaluated']:.0f} | {ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
