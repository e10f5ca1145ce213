"""httpx without what it imports in case: a command line (rich, pygments), HTTP/2.

Import `httpx` from here wherever a Lambda's start is at stake: 120 ms of it, and a little of each
request. Nothing is taken away: both are found when they are asked for.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from typing import Any, Final, cast

#: Imported by the module before it although no one may ask for it; both are ready to fail there.
_IN_CASE: Final = (("httpx", "httpx._main"), ("httpcore", "h2"))

_modules = cast("dict[str, Any]", sys.modules)
for _module, _absent in _IN_CASE:
    if _module in sys.modules or _absent in sys.modules:
        continue
    _modules[_absent] = None  # makes that one import fail as if it were not installed
    try:
        importlib.import_module(_module)
    finally:
        del _modules[_absent]

if "sniffio" not in sys.modules and find_spec("sniffio") is None:
    # httpcore asks for it five times a request, and each failing import searches the whole path
    _modules["sniffio"] = None

import httpx  # noqa: E402 - after what it shall not find

__all__ = ["httpx"]
