"""The lines that apps add to the health of a service: each app's own `checks(settings)`.

An app that cannot say is reported as such; it never makes the others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from minutehand.app import find_apps
from minutehand.config import ConfigurationError, Settings
from minutehand.functions.health.checks import WARN

#: Seconds for an app's checks; less than readiness has for all.
PATIENCE = 3.0
Lines = Mapping[str, Mapping[str, Any]]


def checks_of_apps(settings: Settings) -> Callable[[], Awaitable[Lines]]:
    """The checks of every app that has any, as one call."""
    modules = dict(_modules(settings))

    async def lines_of(name: str, module: Any) -> Lines:
        try:
            async with asyncio.timeout(PATIENCE):
                found: Lines = await module.checks(settings)
        except Exception as error:  # an error of one app's check must not hide the others'
            detail = f"no answer: {type(error).__name__}"
            return {name: {"verdict": WARN, "value": None, "unit": "", "detail": detail}}
        return found

    async def ask() -> Lines:
        found = await asyncio.gather(*(lines_of(name, module) for name, module in modules.items()))
        return {name: line for lines in found for name, line in lines.items()}

    return ask


def _modules(settings: Settings) -> Iterator[tuple[str, ModuleType]]:
    for package in settings.apps:
        try:
            for app in find_apps([package]):
                if (module := app.module("health")) is not None:
                    yield app.name, module
        except ConfigurationError:
            # this function's zip carries of the apps only those that have checks
            continue
