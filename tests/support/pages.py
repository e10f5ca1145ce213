"""The code that pages print."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```[ ]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block, and what is written on the page before it, after the last one."""

    language: str
    code: str
    before: str


def blocks_of(text: str) -> list[Block]:
    """Every block of a page, in order; one without a language has none."""
    found, end = [], 0
    for each in _BLOCK.finditer(text):
        found.append(Block(each[1], each[2], text[end : each.start()]))
        end = each.end()
    return found


def blocks(text: str, *languages: str) -> list[str]:
    """The code of a page in some languages."""
    return [each.code for each in blocks_of(text) if each.language in languages]
