"""The routes that apps bring; an app's folder can be deleted without a trace here."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from fastapi import APIRouter

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.web.services import Services


def _modules(settings: Settings) -> Iterator[ModuleType]:
    for app in find_apps(settings.apps):
        if (module := app.module("routes")) is not None:
            yield module


def routers(services: Services) -> list[APIRouter]:
    """The router of every app that has one."""
    return [module.router(services) for module in _modules(services.settings)]


def body_limits(settings: Settings) -> dict[str, int]:
    """Paths of apps that take larger bodies: their modules' `BODY_LIMITS`, if any."""
    limits: dict[str, int] = {}
    for module in _modules(settings):
        limits.update(getattr(module, "BODY_LIMITS", {}))
    return limits
