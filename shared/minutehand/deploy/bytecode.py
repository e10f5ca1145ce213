"""Byte code that is never checked against its source, once for what several trees share.

For the standard library alone: Lambda's Python runs this file too, see compile.mjs.
"""

from __future__ import annotations

import py_compile
import shutil
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path

#: Where Lambda unzips a function; tracebacks show it.
TASK_ROOT = Path("/var/task")


def compile_trees(trees: Iterable[Path]) -> None:
    """Compile every module; one that an earlier tree has at the same place is copied.

    Raises:
        py_compile.PyCompileError: A file is not Python.
    """
    compiled: dict[tuple[Path, bytes], str] = {}
    for tree in trees:
        for source in sorted(tree.rglob("*.py")):
            place = source.relative_to(tree)
            code = cache_from_source(str(source))
            if (same := compiled.get((place, content := source.read_bytes()))) is not None:
                Path(code).parent.mkdir(exist_ok=True)
                shutil.copyfile(same, code)
                continue
            py_compile.compile(
                str(source), code, str(TASK_ROOT / place), doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
            compiled[place, content] = code
