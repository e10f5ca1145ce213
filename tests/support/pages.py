"""The code that pages print."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```[ ]*$", re.DOTALL | re.MULTILINE)


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code of a page in some languages."""
    return [code for language, code in _BLOCK.findall(text) if language in languages]
