"""
What the model is asked: the built-in templates, rendered by `llmcli`, and a hash that tells when one changed.

    python prompts.py       # the hash that the model card gives
"""

import hashlib
import json

from sources import LANGUAGES

from llmcli.paths import shipped
from llmcli.registry import Found
from llmcli.templates import Template, check_values, load_template, render, render_extract


def prompts() -> dict[str, str]:
    """What the built-in templates say before or after the text, by task."""
    text, label = "TEXT", "LABEL"
    parts = {"sentiment": rendered("sentiment", {}).removesuffix(text)}
    parts["label"], parts["label end"] = (
        rendered("label", {"labels": [label]}).removesuffix(text).split(f" {label}")
    )
    parts["title"] = rendered("title", {}).removeprefix(text)
    parts["summarize"] = rendered("summarize", {"length": "short"}).removeprefix(text)
    summarize = template("summarize")
    asked = render_extract(summarize, text, text, (17, 23), check_values(summarize, {})).messages[-1].content
    parts["extract"], rest = asked.removeprefix(text).removesuffix(text).split(" 17")
    parts["extract of"], parts["extract end"] = rest.split(" 23")
    for to in LANGUAGES.values():
        parts[f"translate {to}"] = rendered("translate", {"to": to}).removesuffix(text)
        for source in LANGUAGES.values():
            if "English" in (to, source) and to != source:
                parts[f"translate {to} from {source}"] = rendered(
                    "translate", {"to": to, "from": source}
                ).removesuffix(text)
    return parts


def template(name: str) -> Template:
    return load_template(Found(name, shipped("prompts") / f"{name}.yaml", "built in"))


def rendered(name: str, values: dict[str, object]) -> str:
    """The user's message with the text TEXT."""
    found = template(name)
    return render(found, "TEXT", check_values(found, values)).messages[-1].content


def digest() -> str:
    """Of every prompt: a model trained on others would answer these worse."""
    return hashlib.sha256(json.dumps(prompts(), sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    print(digest())
