"""The code blocks of a page of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```[ ]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block, and the text between it and the previous block."""

    language: str
    code: str
    before: str


def blocks_of(text: str) -> list[Block]:
    """Return the code blocks of a page in order. The language of a plain block is empty."""
    found, end = [], 0
    for each in _BLOCK.finditer(text):
        found.append(Block(each[1], each[2], text[end : each.start()]))
        end = each.end()
    return found


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code of a page's blocks in these languages."""
    return [each.code for each in blocks_of(text) if each.language in languages]
