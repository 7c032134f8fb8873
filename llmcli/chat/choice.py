"""
A question with a few answers, each a key.
"""

from __future__ import annotations

from collections.abc import Callable

from llmcli.chat.screen import Screen


def choose(screen: Screen, question: str, options: dict[str, str], read: Callable[[str], str]) -> str:
    """The key that `read` gives for its prompt, asked until it is one; empty for going back."""
    screen.say(question)
    for key, text in options.items():
        screen.say(f"  {key}  " + text.replace("\n", "\n       "))
    prompt = f"{'/'.join(options)}, or Enter to go back: "
    try:
        while True:
            answer = read(prompt).strip().lower()
            if answer in options or not answer:
                return answer
    except (KeyboardInterrupt, EOFError):
        return ""
