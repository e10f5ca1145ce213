"""httpx without its command line, which would import rich and pygments: 100 ms of a cold start.

Import `httpx` from here wherever a Lambda's start is at stake.
"""

from __future__ import annotations

import sys
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

__all__ = ["httpx"]
