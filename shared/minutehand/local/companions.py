"""Processes that apps bring to the local stack: local servers for the services they call.

Where they listen is chosen here; what they are is each app's `local` module to say.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from minutehand.app import App
from minutehand.local.parts import Part, answers
from minutehand.local.ports import LOOPBACK, reserve_port


def companions(apps: Sequence[App]) -> tuple[list[Part], dict[str, str]]:
    """The apps' processes, each on a free port, and the variables with their addresses."""
    parts: list[Part] = []
    variables: dict[str, str] = {}
    for app in apps:
        module = app.module("local")
        if module is None:
            continue
        urls: dict[str, str] = {}
        for name, (program, values) in module.PROCESSES.items():
            port = reserve_port()
            urls[name] = f"http://{LOOPBACK}:{port}"
            parts.append(
                Part(
                    name,
                    (sys.executable, "-m", program),
                    answers(urls[name] + module.READY),
                    {**values, "PORT": str(port)},
                )
            )
        variables.update(module.environment(urls))
    return parts, variables
