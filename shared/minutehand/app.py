"""An app: a package that brings processors, routes, pages and the like; the engine names none.

Those of this package are part of every project that does not take them out:
`-minutehand.webhooks`.

What an app brings is found by name, and all of it is optional:

==============  ==================================================================================
`processors`    functions with `@processor`, or `register(registry, settings)`; a module, or a
                package of modules
`routes`        `router(services)`, a FastAPI router
`verbs`         `app`, a Typer group of commands; `FIXES`, what to do next by an error's code
`health`        `async checks(settings)`, the app's lines in `/api/v1/health`: by name, each
                `{verdict: pass|warn|fail, value, unit, detail}`; fail is for what stops all work
`demo`          `enqueue(api, data, workspace_id)`, the demo jobs of the local stack
`local`         processes of the local stack beside the functions, for services the app calls:
                `PROCESSES`, name to module and variables; `READY`, the path that says 200;
                `environment(urls)`, the variables that say where they are
`schemas/`      SQL files, its tables and functions as they are; `migrations/` is what a hosted
                project applies
`seeds/`        SQL files for the local stack only
`console/`      pages of the console, `manifest.js` first
`examples/`     what it makes, to be read here; no function carries it
`lambda.yml`    parameters, variables, secrets and rights of the functions on AWS, and variables of
                the local stack; its keys are those of `minutehand.deploy.apps`
==============  ==================================================================================
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from minutehand.config import ConfigurationError

#: The apps of this package.
BUILT_IN = ("minutehand.webhooks",)
#: Called with the name of a module, and why it cannot be used.
OnError = Callable[[str, Exception], None]


@dataclass(frozen=True)
class App:
    """One app by the import name of its package."""

    package: str

    @property
    def name(self) -> str:
        """The last part of the package's name: its folder in the console, its verb."""
        return self.package.rpartition(".")[2]

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of this package's, and not of the project's own."""
        return self.package in BUILT_IN

    @cached_property
    def folder(self) -> Path:
        """The package's folder.

        Raises:
            ConfigurationError: No such package can be imported.
        """
        return Path(_locations(self.package)[0])

    def module(self, part: str, on_error: OnError | None = None) -> ModuleType | None:
        """The app's module `part`, imported with what is in it; None where the app has none.

        Args:
            on_error: Called with the name of each inner module that cannot be imported and why;
                without it the first such error is raised.
        """
        if not self.has(part):
            return None
        module = importlib.import_module(f"{self.package}.{part}")
        for inner in pkgutil.iter_modules(getattr(module, "__path__", ())):
            name = f"{module.__name__}.{inner.name}"
            try:
                importlib.import_module(name)
            except Exception as error:  # a user's module may raise anything
                if on_error is None:
                    raise
                on_error(name, error)
        return module

    def has(self, part: str) -> bool:
        """Whether the app has a module or package `part`."""
        file, package = self.folder / f"{part}.py", self.folder / part / "__init__.py"
        return file.is_file() or package.is_file()

    def files(self, part: str, pattern: str = "*.sql") -> list[Path]:
        """The files of the app's folder `part`, by name."""
        return sorted((self.folder / part).glob(pattern))


def built_in(packages: Collection[str]) -> list[App]:
    """The apps of this package, without those that a setting takes out."""
    return [App(name) for name in BUILT_IN if f"-{name}" not in packages]


def find_apps(packages: Iterable[str]) -> list[App]:
    """The apps of a setting and of this package, each once, by name.

    Args:
        packages: Import names; `package.*` means every package inside `package`, `-name` takes that
            one out.

    Raises:
        ConfigurationError: A package cannot be imported, an app that is taken out is none, or two
            apps have the same name, so one's pages would hide the other's.
    """
    asked = [name for name in packages if name]
    without = {name[1:] for name in asked if name.startswith("-")}
    given = [*(name for name in asked if not name.startswith("-")), *BUILT_IN]
    named = {App(name) for package in given for name in _expanded(package)}
    if unknown := sorted(without - {app.package for app in named}):
        raise ConfigurationError(
            "MINUTEHAND_APPS",
            f"takes out {unknown[0]!r}, which is not among the apps",
            "jobs,-minutehand.webhooks",
        )
    apps = sorted((app for app in named if app.package not in without), key=lambda app: app.name)
    for one, other in pairwise(apps):
        if one.name == other.name:
            raise ConfigurationError(
                "MINUTEHAND_APPS",
                f"names {one.package!r} and {other.package!r}; the last parts must differ",
                "jobs,billing.tasks",
            )
    return apps


def _expanded(package: str) -> list[str]:
    if not package.endswith(".*"):
        return [package]
    parent = package.removesuffix(".*")
    inner = pkgutil.iter_modules(_locations(parent))
    return [f"{parent}.{module.name}" for module in inner if module.ispkg]


def _locations(package: str) -> list[str]:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "MINUTEHAND_APPS",
            f"names {package!r}, which is not a package that can be imported",
            "jobs",
        )
    return list(spec.submodule_search_locations)
