"""Imports every app's processors, which register themselves by being imported."""

from __future__ import annotations

import importlib
import pkgutil

import shared.apps
from shared.worker.registry import Registry, default_registry


def load_processors() -> Registry:
    """The registry with the processors of every `shared.apps.<app>.processors`.

    Found by listing, so that a new app is a new folder and nothing else. An app that fails to
    import fails the start: running without its processors would look like an idle queue.
    """
    for app in sorted(module.name for module in pkgutil.iter_modules(shared.apps.__path__)):
        name = f"{shared.apps.__name__}.{app}.processors"
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise  # something that the processors themselves import is missing
    return default_registry
