"""Adds the processors of all apps to the registry of a worker.

An app registers its processors with `@processor`. If processors need clients that are built from
the settings, the app's module `processors`, or a submodule, defines `register(registry, settings)`
instead.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from minutehand import telemetry
from minutehand.app import OnError, find_apps
from minutehand.config import Settings
from minutehand.queue.errors import QueueError
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.registry import Registry, default_registry

logger = logging.getLogger(__name__)


def load_processors(settings: Settings, *, on_error: OnError | None = None) -> Registry:
    """Return a registry with the processors of every app in the settings.

    If an app fails to import, the function raises the error, because a worker without the app's
    processors would only seem idle. An app without processors is logged, because its worker would
    seem idle too.

    Args:
        on_error: Function that is called for each module that fails to load, so that the other
            modules are still loaded.
    """
    registry = Registry()

    def without(name: str, error: Exception) -> None:
        if on_error is None:
            raise error
        default_registry.forget(name)  # remove types that the module has registered
        registry.failures[name] = f"{name} cannot be loaded: {type(error).__name__}: {error}"
        on_error(name, error)

    @contextmanager
    def using(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the import of a user's module may raise any error
            without(name, error)

    apps = find_apps(settings.apps)
    if all(app.is_built_in for app in apps):
        names = ",".join(settings.apps)
        extra = {"event": "worker.no_processors", "apps": names}
        logger.warning("MINUTEHAND_APPS=%s names no package with processors", names, extra=extra)
    for app in apps:
        functions, known = {}, len(default_registry.names)
        package = f"{app.package}.processors"
        with using(package):
            module = app.module("processors", on_error and without)
            functions = _register_functions(module) if module is not None else {}
        for name, register in functions.items():
            with using(name):
                register(registry, settings)
        has_more = len(default_registry.names) > known
        is_registered = any(job_type.is_in(package) for job_type in default_registry)
        if not (functions or has_more or is_registered):
            logger.warning(
                "%s has no processors; write them in %s/processors.py, the only file that is read",
                app.package,
                app.package.replace(".", "/"),
                extra={"event": "worker.no_processors", "app": app.package},
            )
    for job_type in list(default_registry):
        with using(getattr(job_type.run, "__module__", job_type.name)):
            registry.add(job_type)
    if telemetry.is_started():
        from minutehand.worker import otel  # import late: OpenTelemetry is optional

        registry.around_all(otel.spans)
    return registry


async def load_or_report(settings: Settings, queue: WorkerQueue) -> Registry:
    """Return a registry with the processors of every app.

    If a module fails to load, store the failure before the error is raised, so that `minutehand
    status` and the console show why no worker serves the module's job types.
    """
    errors: list[Exception] = []
    registry = load_processors(settings, on_error=lambda _, error: errors.append(error))
    if not errors:
        return registry
    try:
        await queue.register_job_types(registry.failure_specs())
    except QueueError as error:
        extra = {"event": "worker.failure_not_stored"}
        logger.warning("The failure to load processors was not stored: %s", error, extra=extra)
    raise errors[0]


def _register_functions(module: ModuleType) -> dict[str, Callable[[Registry, Settings], None]]:
    """Return each function `register` of a module and its submodules once, by module name."""
    names = [
        module.__name__,
        *sorted(n for n in sys.modules if n.startswith(f"{module.__name__}.")),
    ]
    functions = {name: getattr(sys.modules[name], "register", None) for name in names}
    first = {register: name for name, register in reversed(functions.items()) if callable(register)}
    return {name: register for register, name in reversed(first.items())}
