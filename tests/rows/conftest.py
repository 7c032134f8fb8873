"""What the tests of rows share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from batches import Batches


@pytest.fixture
def batches(work: Path, script: Callable[..., str]) -> Callable[..., Batches]:
    """`batches(default="A title")`: runs in the folder `work` with that script."""

    def make(template: object = None, **keys: object) -> Batches:
        made = Batches(
            work, script(**{"scores": "hash", "default": "Title: {last}", "log": "asked.jsonl", **keys})
        )
        if template is not None:
            made.template = template  # type: ignore[assignment]
        return made

    return make
