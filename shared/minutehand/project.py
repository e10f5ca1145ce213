"""The project in which a command runs, with the project's folder and options.

The project's options are in `minutehand.toml`, or in `[tool.minutehand]` of `pyproject.toml`.
Functions on Lambda read the same options from environment variables, see `minutehand.config`.
"""

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minutehand.config import ConfigurationError, error_message

FILE = "minutehand.toml"
#: Environment variable with the project's folder, for a command that runs in another folder.
VARIABLE = "MINUTEHAND_PROJECT"

Tenancy = Literal["workspaces", "existing", "personal"]


class Project(BaseModel):
    """The folder and the options of a project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    #: Name of the project. On AWS, the names of its stack, roles, parameters and log group begin
    #: with this name.
    name: str = Field(default="minutehand", pattern=r"^[a-z][a-z0-9-]{1,19}$")
    #: Import names of packages with processors, routes, pages and other parts. An entry `-name`
    #: leaves out an app of Minutehand.
    apps: tuple[str, ...] = ()
    #: Database schema of the jobs that clients see. The default is the schema in the SQL sources,
    #: for a folder without an installation.
    schema_: str = Field(default="public", alias="schema", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    tenancy: Tenancy = "workspaces"
    #: Folder with the project's packages if they are not in the project's root, e.g. in a monorepo.
    source: str = "src"

    @classmethod
    def at(cls, root: Path) -> Self:
        """Read the options of the project in the folder `root`.

        Raises:
            ConfigurationError: The file with the options is not TOML, or an option is invalid.
        """
        path, options = _read(root)
        try:
            return cls.model_validate({**options, "root": root})
        except ValidationError as error:
            option = error.errors()[0]["loc"][0]
            raise ConfigurationError(f"{option} in {path}", error_message(error), "") from error

    @classmethod
    def find(cls, start: Path | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """Find the project of a folder or of its parent folders.

        The default folder is the working folder.

        If there is no project, return a project of the folder with default options.
        """
        if start is None and (path := environ.get(VARIABLE)):
            return cls.at(Path(path).resolve())
        directory = (start or Path.cwd()).resolve()
        for folder in (directory, *directory.parents):
            if _read(folder)[1]:
                return cls.at(folder)
        return cls.at(directory)

    @property
    def packages(self) -> tuple[str, ...]:
        """Import names of packages in `apps`."""
        return tuple(name for name in self.apps if not name.startswith("-"))

    @property
    def without(self) -> tuple[str, ...]:
        """Entries of `apps` that leave out an app of Minutehand."""
        return tuple(name for name in self.apps if name.startswith("-"))

    @property
    def import_roots(self) -> tuple[Path, ...]:
        """Existing folders from which Python imports the project's packages."""
        return tuple(folder for folder in (self.root, self.root / self.source) if folder.is_dir())

    def make_importable(self) -> None:
        """Put the project's folders first in Python's import path, as `python -m` does."""
        sys.path[:0] = [str(root) for root in self.import_roots if str(root) not in sys.path]

    @property
    def stages_file(self) -> Path:
        """File with the stages' parameters, infra/aws/stages.yml or else minutehand.stages.yml."""
        file = self.root / "infra" / "aws" / "stages.yml"
        return file if file.is_file() else self.root / "minutehand.stages.yml"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that pass the project's options to its processes."""
        return {"MINUTEHAND_APPS": ",".join(self.apps), "MINUTEHAND_SCHEMA": self.schema_}


def add_to_gitignore(folder: Path) -> None:
    """Create a folder with a `.gitignore`, so that git ignores the folder's contents."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", "utf-8")


def is_tracked(file: Path) -> bool:
    """Return True if git tracks the file, and thus keeps its content in the history."""
    try:
        result = subprocess.run(
            ["git", "ls-files", "--error-unmatch", "--", file.name],
            cwd=file.resolve().parent,
            capture_output=True,
        )
    except FileNotFoundError:  # no git installed
        return False
    return result.returncode == 0


def _read(root: Path) -> tuple[Path, dict[str, Any]]:
    for path, keys in ((root / FILE, ()), (root / "pyproject.toml", ("tool", "minutehand"))):
        if not path.is_file():
            continue
        try:
            options: Any = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            if keys:
                continue  # other tools report an invalid pyproject.toml
            raise ConfigurationError(str(path), f"must be TOML: {error}", "") from error
        for key in keys:
            options = options.get(key, {})
        if options:
            return path, options
    return root / FILE, {}
