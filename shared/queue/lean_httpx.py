"""httpx without its command line, which would import rich and pygments: 100 ms of a cold start.

Nor does it search for what is not installed on each request.

Import `httpx` from here wherever a Lambda's start is at stake.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any, cast

if "httpx" not in sys.modules:
    # None makes that one import fail as if rich were not installed; httpx is ready for that
    cast("dict[str, Any]", sys.modules)["httpx._main"] = None
    try:
        import httpx
    finally:
        del sys.modules["httpx._main"]
else:
    import httpx

if "sniffio" not in sys.modules and find_spec("sniffio") is None:
    # httpcore asks for it five times a request, and each failing import searches the whole path
    cast("dict[str, Any]", sys.modules)["sniffio"] = None

__all__ = ["httpx"]
