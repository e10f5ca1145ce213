"""The routes that apps bring; an app's folder can be deleted without a trace here."""

from __future__ import annotations

from fastapi import APIRouter

from minutehand.app import find_apps
from minutehand.web.services import Services


def routers(services: Services) -> list[APIRouter]:
    """The router of every app that has one."""
    modules = (app.module("routes") for app in find_apps(services.settings.apps))
    return [module.router(services) for module in modules if module is not None]
