"""
Prompts to token ids.

Only the chat template's own control tokens become those ids: a document that
contains `<|im_end|>` contains nine characters. Everything between two control tokens,
the template's words and the user's, is joined and tokenised in one call,
because a text tokenised in pieces is not the text the model was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress, count
from operator import ne

from msgspec.structs import replace

from llmcli.engines.llama.branches import Rests
from llmcli.engines.llama.chat_template import ChatTemplate
from llmcli.engines.llama.library import Model, is_control, strips
from llmcli.errors import ModelError, UnusableAnswer
from llmcli.messages import Message, Prompt

MOST_REPLIES = 256


class Tokenizer:
    """
    One model's way from prompts to ids. Call it on a thread with a large stack.

    `space_prefix`: the file asks for a space before the text (SentencePiece), and the
    model was loaded with that switched off, so that it happens here, once.
    """

    def __init__(self, model: Model, template: ChatTemplate | None, *, space_prefix: bool) -> None:
        self._model = model
        self._template = template
        self._space_prefix = space_prefix
        self._special: dict[str, int] = {}
        self._attributes = model.special_tokens()
        for token in self._attributes:
            text = model.token_text(token)
            if text:
                self._special[text] = token
        self._find_special = _any_of(self._special)
        self._cut = _any_of(self._user_defined_marks())
        self._literals: dict[str, list[str | int]] = {}
        self._replies: dict[str, tuple[int, ...]] = {}
        self._fixed: dict[tuple[Message, ...], list[int]] = {}  # of the last template
        self._tails: dict[tuple[str, tuple[str, ...]], tuple[list[int], Rests]] = {}

    def _user_defined_marks(self) -> list[str]:
        """
        User-defined tokens that would mean something if a document's text became them.

        llama.cpp turns the text of user-defined tokens into their ids even where special
        tokens are off; for most that is how the model was trained, but not for
        those that the chat template uses or that end an answer.
        """
        source = self._template.source if self._template else ""
        return [
            text
            for text, token in self._special.items()
            if not is_control(self._attributes[token])
            and (text in source or self._model.ends_generation(token))
        ]

    def encode(self, prompt: Prompt) -> list[int]:
        """
        The ids of a prompt, up to where the answer begins.

        Raises ModelError where the model has no chat template and the prompt has messages.
        """
        return self._ids(self._runs(prompt))

    def stable(self, prompt: Prompt, tokens: Sequence[int]) -> int:
        """
        How many of a prompt's ids the conversation's next prompt will begin with as well.

        That is all but the header of the answer, which some templates rewrite.
        """
        if prompt.raw is not None or prompt.continue_last or not prompt.messages:
            return len(tokens)
        return common_prefix(self.encode(replace(prompt, continue_last=True)), tokens)

    def coming(self, prompt: Prompt) -> list[int]:
        """The ids that a prompt begins with, however its last message goes on."""
        *before, last = prompt.messages
        ends = (Message(last.role, last.content + end) for end in ("a", "字"))
        one, other = (self.encode(replace(prompt, messages=(*before, end))) for end in ends)
        return one[: common_prefix(one, other)]

    def fixed(self, prompt: Prompt, tokens: Sequence[int]) -> int:
        """How many of a prompt's ids come from its template's own words, whatever text follows."""
        if prompt.fixed is None or not prompt.messages:
            return 0
        last = prompt.messages[-1]
        own = (*prompt.messages[:-1], Message(last.role, last.content[: prompt.fixed]))
        if own not in self._fixed:
            self._fixed = {own: self.encode(replace(prompt, messages=own, continue_last=True))}
        return common_prefix(self._fixed[own], tokens)

    def remember(self, reply: str, tokens: Sequence[int]) -> None:
        """
        Keep the ids of a reply that the model wrote, for the prompts that quote it.

        Tokenised anew it may come out otherwise, and what stands in the cache would not match. Not where
        more was written than the reply says: a stop text, empty thinking, a control token.
        """
        if self._space_prefix or not tokens or reply != reply.strip():
            return
        if b"".join(self._model.piece(token, special=True) for token in tokens) != reply.encode():
            return
        if len(self._replies) > MOST_REPLIES:
            self._replies.clear()
        self._replies[reply] = tuple(tokens)

    def encode_with_answers(
        self, prompt: Prompt, answers: Sequence[str], prefix: str = ""
    ) -> tuple[list[int], Rests]:
        """
        A prompt and the token sequences of some possible answers to it.

        `prefix` is template text that stands between the assistant's header and the final answer.

        Each answer is tokenised together with the text it follows; what all share
        belongs to the prompt. An answer whose tokens begin another's is ended by the
        end-of-turn token, so that the two can be told apart.
        """
        runs = self._runs(prompt)
        for piece in self._literal(prefix):
            runs = [*runs[:-1], f"{runs[-1]}{piece}"] if isinstance(piece, str) else [*runs, piece, ""]
        last = str(runs[-1])
        key = (last, tuple(answers))
        if key not in self._tails:
            if len(self._tails) > 64:
                self._tails.clear()
            self._tails[key] = self._tail(last, answers)
        shared, rests = self._tails[key]
        return self._ids(runs[:-1]) + shared, rests

    def _tail(self, last: str, answers: Sequence[str]) -> tuple[list[int], Rests]:
        """What the answers share of their tokens behind the last control token, and what they do not."""
        tails = [self._text(last + answer) for answer in answers]
        if len(tails) > 1:
            shared = min(common_prefix(tails[0], tail) for tail in tails[1:])
        else:
            shared = min(len(self._text(last)), len(tails[0]) - 1)
        rests = [tail[shared:] for tail in tails]
        end = self._model.eot if self._model.eot >= 0 else self._model.eos
        for number, rest in enumerate(rests):
            others = rests[:number] + rests[number + 1 :]
            if any(other[: len(rest)] == rest for other in others):
                rests[number] = rest + [end]
        if len({tuple(rest) for rest in rests}) < len(rests):
            raise UnusableAnswer("two labels are the same to this model", "use labels that differ more")
        return tails[0][:shared], tuple(map(tuple, rests))

    def count(self, text: str) -> int:
        """Tokens of a text as it stands."""
        return len(self._text(text))

    def _runs(self, prompt: Prompt) -> list[str | int]:
        """Control tokens (ids) and the texts between them; the last item is always a text."""
        if prompt.raw is not None:
            return self._with_bos([self._neutral(prompt.raw)])
        if self._template is None:
            raise ModelError(
                "this model has no chat template, so it cannot be asked anything",
                "use llm complete, or name a chat_template for it in models.yaml",
            )
        parts, contents = self._template.layout(
            prompt.messages, thinking=prompt.thinking, continue_last=prompt.continue_last
        )
        runs: list[str | int] = [""]
        for part in parts:
            for piece in self._literal(part) if isinstance(part, str) else self._content(contents[part]):
                if isinstance(piece, int):
                    runs += [piece, ""]
                else:
                    runs[-1] = f"{runs[-1]}{piece}"
        return self._with_bos(self._stripped(runs))

    def _with_bos(self, runs: list[str | int]) -> list[str | int]:
        bos = self._model.bos
        first = next((run for run in runs if run != ""), None)
        if self._model.add_bos and bos >= 0 and first != bos:
            return [bos, *runs]
        return runs

    def _content(self, text: str) -> Sequence[str | int]:
        """A message's own text, or the ids that the model wrote it in."""
        return self._replies.get(text) or [self._neutral(text)]

    def _literal(self, text: str) -> list[str | int]:
        """The template's own text, its special tokens as ids."""
        if text not in self._literals:
            found: list[str | int] = []
            position = 0
            for match in self._find_special.finditer(text) if self._find_special else ():
                if match.start() > position:
                    found.append(text[position : match.start()])
                found.append(self._special[match.group()])
                position = match.end()
            if position < len(text):
                found.append(text[position:])
            self._literals[text] = found
        return self._literals[text]

    def _stripped(self, runs: list[str | int]) -> list[str | int]:
        """White space beside a token that takes it along (Phi-3's `<|user|>` and the newline after it)."""
        runs = list(runs)
        for number, run in enumerate(runs):
            if isinstance(run, int):
                left, right = strips(self._attributes.get(run, 0))
                before, after = runs[number - 1] if number else "", runs[number + 1]
                if left and isinstance(before, str):
                    runs[number - 1] = before.rstrip()
                if right and isinstance(after, str):
                    runs[number + 1] = after.lstrip()
        return runs

    def _neutral(self, content: str) -> str:
        """Mark the places where content must be cut so that it spells no token of the template."""
        if self._cut is None:
            return content
        return self._cut.sub(lambda match: match.group()[0] + _CUT + match.group()[1:], content)

    def _ids(self, runs: Sequence[str | int]) -> list[int]:
        tokens: list[int] = []
        for run in runs:
            tokens += [run] if isinstance(run, int) else self._text(run)
        return tokens

    def _text(self, text: str) -> list[int]:
        if not text:
            return []
        if self._space_prefix:
            text = " " + text
        tokens: list[int] = []
        for piece in text.split(_CUT):
            tokens += self._model.tokenize(piece)
        return tokens


_CUT = "\udc00"
"""Where a text is tokenised in two calls: half a surrogate pair, which no text on the wire can hold."""


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """
    How many ids two sequences share at their beginning.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    alike, stride = 0, 64
    while first[alike : alike + stride] == second[alike : alike + stride]:  # runs of ids compared in C
        alike, stride = alike + stride, 2 * stride
        if alike >= len(first):
            return min(len(first), len(second))
    differ = map(ne, first[alike:], second[alike:])
    return alike + next(compress(count(), differ), min(len(first), len(second)) - alike)


def _any_of(texts: object) -> re.Pattern[str] | None:
    """A pattern that finds the longest of some texts."""
    longest_first = sorted((str(text) for text in texts), key=len, reverse=True)  # type: ignore[attr-defined]
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
