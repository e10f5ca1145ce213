"""Collects every app's processors into the registry a worker runs.

An app registers by decorating with `@processor`, or, when its processors need clients made from
the settings, by a `register(registry, settings)` in its processors module.
"""

from __future__ import annotations

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.webhooks import processors as webhooks
from minutehand.worker.registry import Registry, default_registry


def load_processors(settings: Settings) -> Registry:
    """A registry with the engine's own processors and those of every app of the settings.

    An app that fails to import fails the start: running without its processors would seem
    an idle queue.
    """
    registry = Registry()
    webhooks.register(registry, settings)
    for app in find_apps(settings.apps):
        module = app.module("processors")
        if module is not None and hasattr(module, "register"):
            module.register(registry, settings)
    for kind in default_registry:
        registry.add(kind)
    return registry
