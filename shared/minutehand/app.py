"""An app: a package with processors, routes, pages and other parts.

Apps that this package contains are part of every project, unless the project's `apps` leave them
out, e.g. by `-minutehand.webhooks`. The engine depends on no app.

All parts of an app are optional. A part is found by its name:

==============  ==================================================================================
`processors`    functions with `@processor`, or `register(registry, settings)`; a module, or a
                package of modules
`routes`        `router(services)`, a FastAPI router
`verbs`         `app`, a Typer group of commands; `FIXES`, next steps by error code
`health`        `async checks(settings)`, the app's lines in `/api/v1/health`: by name, each
                `{verdict: pass|warn|fail, value, unit, detail}`; fail means that all work stops
`demo`          `enqueue(api, data, workspace_id)`, the demo jobs of the local stack
`local`         extra processes of the local stack, for services that the app calls:
                `PROCESSES`, module and variables by name; `READY`, the path that returns 200 when
                the process is ready; `environment(urls)`, the variables with their addresses
`schemas/`      SQL files with the present tables and functions; a hosted project applies
                `migrations/`
`seeds/`        SQL files for the local stack only
`console/`      pages of the console, and their `manifest.json`
`examples/`     example results for readers, which are not deployed
`lambda.yml`    parameters, variables, secrets and rights of the functions on AWS, and variables of
                the local stack, with the keys of `minutehand.deploy.apps`
==============  ==================================================================================
"""

import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from minutehand.config import ConfigurationError

#: Packages of the apps that this package contains.
BUILT_IN = ("minutehand.webhooks",)
#: Function that gets the name of a module, and the error because of which it cannot be used.
OnError = Callable[[str, Exception], None]


@dataclass(frozen=True)
class App:
    """An app. The import name of its package identifies it."""

    package: str

    @property
    def name(self) -> str:
        """Last part of the package's name, which the app's console pages and commands also have."""
        return self.package.rpartition(".")[2]

    @property
    def is_built_in(self) -> bool:
        """True if this package contains the app's package."""
        return self.package in BUILT_IN

    @cached_property
    def folder(self) -> Path:
        """Folder of the app's package.

        Raises:
            ConfigurationError: The package cannot be imported.
        """
        return Path(_locations(self.package)[0])

    def module(self, part: str, on_error: OnError | None = None) -> ModuleType | None:
        """Import the app's module `part` with its submodules.

        Return None if the app has no such module.

        Args:
            on_error: Function that is called for each submodule that cannot be imported. Without
                this function, the first error is raised.
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
        """True if the app has a module or a package with the name `part`."""
        file, package = self.folder / f"{part}.py", self.folder / part / "__init__.py"
        return file.is_file() or package.is_file()

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The menu and the routes of the app's console pages, or None if the app has no pages.

        Raises:
            ConfigurationError: The manifest has the format of version 0.5.1.
        """
        file = self.folder / "console" / "manifest.json"
        if file.with_suffix(".js").is_file():
            raise ConfigurationError(
                "MINUTEHAND_APPS",
                f"names {self.package!r}, whose console/manifest.js must become manifest.json, as"
                " the changelog describes",
                "jobs",
            )
        return {"name": self.name, **json.loads(file.read_text())} if file.is_file() else None

    def files(self, part: str, pattern: str = "*.sql") -> list[Path]:
        """List the files in the app's folder `part`, sorted by name."""
        return sorted((self.folder / part).glob(pattern))


def built_in(packages: Collection[str]) -> list[App]:
    """List the apps that this package contains, except apps that `packages` leaves out."""
    return [App(name) for name in BUILT_IN if f"-{name}" not in packages]


def find_apps(packages: Iterable[str]) -> list[App]:
    """List the apps of a project and the apps that this package contains, sorted by name.

    Args:
        packages: Import names. `package.*` means each package inside `package`. `-name` leaves out
            an app.

    Raises:
        ConfigurationError: A package cannot be imported, an app to leave out does not exist, or two
            apps have the same name, so that the pages of one would hide the pages of the other.
    """
    names = [name for name in packages if name]
    without = {name[1:] for name in names if name.startswith("-")}
    included = [*(name for name in names if not name.startswith("-")), *BUILT_IN]
    candidates = {App(name) for package in included for name in _expand(package)}
    if unknown := sorted(without - {app.package for app in candidates}):
        raise ConfigurationError(
            "MINUTEHAND_APPS",
            f"leaves out {unknown[0]!r}, which is not among the apps",
            "jobs,-minutehand.webhooks",
        )
    apps = sorted(
        (app for app in candidates if app.package not in without), key=lambda app: app.name
    )
    for app, following in pairwise(apps):
        if app.name == following.name:
            raise ConfigurationError(
                "MINUTEHAND_APPS",
                f"names {app.package!r} and {following.package!r}, whose last parts must differ",
                "jobs,billing.tasks",
            )
    return apps


def _expand(package: str) -> list[str]:
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
