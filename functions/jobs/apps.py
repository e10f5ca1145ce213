"""Finds the reference apps' routes: each `shared/apps/<app>/routes.py` has `router(services)`.

An app's folder can be deleted without a trace here.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from fastapi import APIRouter

from shared.web.services import Services

_HOME = "shared.apps"


def _modules() -> Iterator[ModuleType]:
    home = importlib.util.find_spec(_HOME)
    if home is None or home.submodule_search_locations is None:
        return
    for app in sorted(pkgutil.iter_modules(home.submodule_search_locations), key=lambda a: a.name):
        name = f"{_HOME}.{app.name}.routes"
        if app.ispkg and importlib.util.find_spec(name) is not None:
            yield importlib.import_module(name)


def routers(services: Services) -> list[APIRouter]:
    """The router of every app that has one."""
    return [module.router(services) for module in _modules()]


def body_limits() -> dict[str, int]:
    """Paths of apps that take larger bodies: their modules' `BODY_LIMITS`, if any."""
    limits: dict[str, int] = {}
    for module in _modules():
        limits.update(getattr(module, "BODY_LIMITS", {}))
    return limits
