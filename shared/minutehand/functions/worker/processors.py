"""Collects every app's processors into the registry a worker runs.

An app registers by decorating with `@processor`, or, when its processors need clients made from
the settings, by a `register(registry, settings)` in its processors module, or in one inside it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from minutehand import telemetry
from minutehand.app import App, OnError, find_apps
from minutehand.config import Settings
from minutehand.worker.registry import Registry, default_registry

logger = logging.getLogger(__name__)


def load_processors(settings: Settings, *, on_error: OnError | None = None) -> Registry:
    """A registry with the processors of every app of the settings.

    An app that fails to import fails the start: running without its processors would seem
    an idle queue. One that has none is named in the log, for the same reason.

    Args:
        on_error: Called with each module that cannot be used; the others are then loaded.
    """
    registry = Registry()

    def without(name: str, error: Exception) -> None:
        if on_error is None:
            raise error
        default_registry.forget(name)  # what it registered before it failed
        on_error(name, error)

    @contextmanager
    def using(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a user's module may raise anything
            without(name, error)

    apps = find_apps(settings.apps)
    if all(app.is_built_in for app in apps):
        named = ",".join(settings.apps)
        extra = {"event": "worker.no_processors", "apps": named}
        logger.warning("MINUTEHAND_APPS=%s names no package with processors", named, extra=extra)
    for app in apps:
        registering, known = {}, len(default_registry.names)
        with using(f"{app.package}.processors"):
            module = app.module("processors", on_error and without)
            registering = _registering(module) if module is not None else {}
        for name, register in registering.items():
            with using(name):
                register(registry, settings)
        has_more = len(default_registry.names) > known
        if not (registering or has_more or _registered_by(app)):
            logger.warning(
                "%s has no processors: write them in %s/processors.py, the only place that is read",
                app.package,
                app.package.replace(".", "/"),
                extra={"event": "worker.no_processors", "app": app.package},
            )
    for job_type in list(default_registry):
        with using(getattr(job_type.run, "__module__", job_type.name)):
            registry.add(job_type)
    if telemetry.is_started():
        from minutehand.worker import otel  # only here: it is an extra

        registry.around_all(otel.spans)
    return registry


def _registering(module: ModuleType) -> dict[str, Callable[[Registry, Settings], None]]:
    """Each `register` of a module and of those inside it, once, by the first module that has it."""
    names = [
        module.__name__,
        *sorted(n for n in sys.modules if n.startswith(f"{module.__name__}.")),
    ]
    found = {name: getattr(sys.modules[name], "register", None) for name in names}
    once = {register: name for name, register in reversed(found.items()) if callable(register)}
    return {name: register for register, name in reversed(once.items())}


def _registered_by(app: App) -> bool:
    """Whether a module of the app has registered a processor by decorating it."""
    modules = f"{app.package}.processors"
    named = (getattr(job_type.run, "__module__", "") for job_type in default_registry)
    return any(name == modules or name.startswith(f"{modules}.") for name in named)
