"""
The platform's own folders, found without importing anything.

platformdirs knows them too, but its import takes a twentieth of `llm --help` and a quarter of a Tab
key's answer; a test compares the two.
"""

import os
import sys


def platform_folder(variable: str, linux: str, mac: str) -> str:
    """
    Our folder under that of XDG's variable or its default (Linux), or under ~/Library (macOS).

    The user's home stands as `~`. Source: XDG Base Directory Specification 0.8; Apple's File System
    Programming Guide.
    """
    if sys.platform == "darwin":
        return f"~/Library/{mac}/llmcli"
    return os.path.join(os.environ.get(variable, "").strip() or f"~/{linux}", "llmcli")  # noqa: PTH118
