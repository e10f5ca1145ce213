"""Collects every app's processors into the registry a worker runs.

An app registers by decorating with `@processor`, or, when its processors need clients made from
the settings, by a `register(registry, settings)` in its processors module.
"""

from __future__ import annotations

import importlib
import pkgutil

import shared.apps
from shared.config import Settings
from shared.worker.registry import Registry, default_registry


def load_processors(settings: Settings) -> Registry:
    """A registry with the processors of every `shared.apps.<app>.processors`.

    Found by listing, so that a new app is a new folder and nothing else. An app that fails to
    import fails the start: running without its processors would look like an idle queue.
    """
    registry = Registry()
    for app in sorted(module.name for module in pkgutil.iter_modules(shared.apps.__path__)):
        name = f"{shared.apps.__name__}.{app}.processors"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise  # something that the processors themselves import is missing
            continue
        if hasattr(module, "register"):
            module.register(registry, settings)
    for kind in default_registry:
        registry.add(kind)
    return registry
