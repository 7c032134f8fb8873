"""
What a chat's tenth turn costs before its first token, beside a fresh prompt of what is new in it.

    python benchmarks/turns.py [--model FILE] [--rounds 3] [--typing 5]

Once the message comes at the very moment the reply is complete, and once after the seconds that somebody
takes to type it, in which the engine reads ahead what is known already. New in a turn are the previous reply
and the message. Two chat templates: one keeps a reply as it was written, under the header it was written
under; the other one's header holds an empty thinking block that is gone from earlier turns (as Qwen3's), so
that the last reply is rendered anew and must be read again. The fresh prompt shares nothing. In every round
the chat and the fresh prompt take turns.
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


def take_turn(
    engine: Engine, messages: list[Message], said: str, seed: int, typing: float
) -> dict[str, float]:
    """One turn as `llm chat` takes it: read ahead while the message is typed, then answer it."""
    engine.read_ahead(Prompt((*messages, Message("user", ""))), Sampling(max_tokens=REPLY))
    time.sleep(typing)
    messages.append(Message("user", said))
    first, reply = answer(engine, messages, seed)
    messages.append(Message("assistant", reply.text))
    return {"first": first, "prompt": reply.usage.prompt, "read": reply.usage.prompt - reply.usage.cached}


def round_of(engine: Engine, turns: int, number: int, typing: float) -> tuple[dict[str, float], ...]:
    """One conversation, whose last two turns are taken twice, then the fresh prompt."""
    messages: list[Message] = []
    *before, previous, last = (f"{said} (Conversation {number}.)" for said in texts.turns(turns))
    for turn, said in enumerate(before):
        take_turn(engine, messages, said, 100 * number + turn, 0)
    kept, taken = list(messages), []
    for pause in (0, typing):
        messages = list(kept)
        take_turn(engine, messages, previous, 100 * number + 98, 0)
        taken.append(take_turn(engine, messages, last, 100 * number + 99, pause))
    new = f"{number}: {messages[-3].content}\n{last}"
    return *taken, take_turn(engine, [], new, number, 0)


def main() -> None:
    """Measure and print one line for each template."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="default: the random model of make_model.py")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--typing", type=float, default=5, help="seconds to type a message")
    given = parser.parse_args()
    model = given.model or make_model.model_file()
    print(f"{machine()}, {given.threads} threads, load {load()} before\n")
    print(f"| chat template | the message comes | turn {given.turns}, s | tokens read, of | ratio to fresh |")
    print("|---|---|---|---|---|")
    for name, template in TEMPLATES.items():
        engine = open_engine(str(model), EngineOptions(threads=given.threads, chat_template=template))
        rounds = range(1, given.rounds + 1)
        found = [round_of(engine, given.turns, number, given.typing) for number in rounds]
        engine.close()
        for way, when in enumerate(("at once", f"after {given.typing:.3g} s")):
            print(row(name, when, [one[way] for one in found], [one[2] for one in found]), flush=True)
        print(row(name, "fresh prompt", [one[2] for one in found], [one[2] for one in found]), flush=True)


def row(name: str, when: str, turns: list[dict[str, float]], fresh: list[dict[str, float]]) -> str:
    """A line of the table: medians."""
    middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
    ratio = statistics.median(turn["first"] / other["first"] for turn, other in zip(turns, fresh))
    read = f"{middle['read']:.0f} of {middle['prompt']:.0f}"
    return f"| {name} | {when} | {middle['first']:.3g} | {read} | {ratio:.2f} |"


if __name__ == "__main__":
    main()
