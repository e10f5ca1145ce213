"""The code blocks of a page of the documentation."""

import re

_BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```[ ]*$", re.DOTALL | re.MULTILINE)


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Return language and code of a page's blocks. The language of a plain block is empty."""
    return _BLOCK.findall(text)


def blocks(text: str, *languages: str) -> list[str]:
    """Return the code of a page's blocks in these languages."""
    return [code for language, code in blocks_of(text) if language in languages]
