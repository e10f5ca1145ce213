"""The project that the command, the local stack and the packager work for: its folder and answers.

The answers are in `minutehand.toml`, or in `[tool.minutehand]` of `pyproject.toml`. Functions on
Lambda read the same values from the environment, see `minutehand.config`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minutehand.config import ConfigurationError

FILE = "minutehand.toml"
#: Names the project's folder for a command that runs elsewhere.
VARIABLE = "MINUTEHAND_PROJECT"

Tenancy = Literal["workspaces", "existing", "personal"]


class Project(BaseModel):
    """One project's answers; what is absent has its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    #: With which its stack, roles, parameters and log group on AWS begin.
    name: str = Field(default="minutehand", pattern=r"^[a-z][a-z0-9-]{0,19}$")
    #: Packages that bring processors, routes, pages and the like, as import names; `-name` takes an
    #: app of Minutehand's out.
    apps: tuple[str, ...] = ()
    #: Where clients see jobs.
    #: Without a file nothing was installed: the names are those of the migrations as written.
    schema_: str = Field(default="public", alias="schema", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    tenancy: Tenancy = "workspaces"
    #: The folder with the project's packages where they are not in the root, as in a monorepo.
    source: str = "src"

    @property
    def engine_schema(self) -> str:
        """Where the engine keeps its own tables and functions."""
        return "queue" if self.schema_ == "public" else f"{self.schema_}_engine"

    @classmethod
    def at(cls, root: Path) -> Self:
        """Read the answers in `root`.

        Raises:
            ConfigurationError: The file is not TOML or holds something else than answers.
        """
        path, found = _read(root)
        try:
            return cls(root=root, **found)
        except (ValidationError, TypeError) as error:
            raise ConfigurationError(
                str(path), f"is not valid: {error}", 'schema = "minutehand"'
            ) from error

    @classmethod
    def find(cls, start: Path | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """The project around `start`, the working folder when None; without one, that folder."""
        if start is None and (named := environ.get(VARIABLE)):
            return cls.at(Path(named).resolve())
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if _read(folder)[1]:
                return cls.at(folder)
        return cls.at(here)

    @property
    def packages(self) -> tuple[str, ...]:
        """The import names among `apps`."""
        return tuple(name for name in self.apps if not name.startswith("-"))

    @property
    def without(self) -> tuple[str, ...]:
        """The apps of Minutehand that are taken out, as `apps` names them."""
        return tuple(name for name in self.apps if name.startswith("-"))

    @property
    def import_roots(self) -> tuple[Path, ...]:
        """The folders from which the project's own packages are imported."""
        return tuple(folder for folder in (self.root, self.root / self.source) if folder.is_dir())

    def make_importable(self) -> None:
        """Import the project's packages as `python -m` in its folder would: before all others."""
        sys.path[:0] = [str(root) for root in self.import_roots if str(root) not in sys.path]

    @property
    def stages_file(self) -> Path:
        """What differs between the stages on AWS; `minutehand.stages.yml` unless kept apart."""
        apart = self.root / "infra" / "aws" / "stages.yml"
        return apart if apart.is_file() else self.root / "minutehand.stages.yml"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process of this project learns its answers."""
        return {"MINUTEHAND_APPS": ",".join(self.apps), "MINUTEHAND_SCHEMA": self.schema_}


def add_to_gitignore(folder: Path) -> None:
    """Make a folder of ours, whose contents no commit of the project takes up."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", "utf-8")


def is_tracked(file: Path) -> bool:
    """Whether git has the file, so that its contents are in the history or soon will be."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--error-unmatch", "--", file.name],
            cwd=file.resolve().parent,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:  # no git here
        return False
    return done.returncode == 0


def _read(root: Path) -> tuple[Path, dict[str, Any]]:
    for path, keys in ((root / FILE, ()), (root / "pyproject.toml", ("tool", "minutehand"))):
        if not path.is_file():
            continue
        try:
            found: Any = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            if keys:
                continue  # another tool's file, and another tool's complaint
            raise ConfigurationError(str(path), f"is not TOML: {error}", "") from error
        for key in keys:
            found = found.get(key, {})
        if found:
            return path, found
    return root / FILE, {}
