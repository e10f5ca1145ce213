"""Settings in a project's supabase/config.toml that are about its local database."""

import tomllib
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Self


class InvalidConfig(Exception):
    """supabase/config.toml is not valid. The message contains the reason."""


@dataclass(frozen=True)
class Config:
    """Configuration of a project's local Supabase.

    Args:
        root: The project's folder.
        values: Content of the project's supabase/config.toml, or {} without this file.
    """

    root: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read the configuration of the project in `root`.

        Raises:
            InvalidConfig: The file is not TOML.
        """
        try:
            return cls(root, tomllib.loads((root / "supabase/config.toml").read_text("utf-8")))
        except FileNotFoundError:
            return cls(root, {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"supabase/config.toml is not TOML: {error}") from error

    @property
    def exposes_new_tables(self) -> bool:
        """True if the Data API may read and write each new table of the schema `public`."""
        return self.values.get("api", {}).get("auto_expose_new_tables") is True

    @property
    def address(self) -> str:
        """URL of the stack that `supabase start` runs for the project."""
        return f"http://127.0.0.1:{self.values.get('api', {}).get('port', 54321)}"

    @property
    def schemas(self) -> list[str]:
        """Schemas that the Data API exposes in addition to `public`."""
        return list(self.values.get("api", {}).get("schemas", []))

    @property
    def site_url(self) -> str:
        """URL of the page to which Auth's mails link."""
        return str(self.values.get("auth", {}).get("site_url", "http://127.0.0.1:3000"))

    def seeds(self) -> list[Path]:
        """List the files in `[db.seed]`, in the order of the Supabase CLI.

        Raises:
            InvalidConfig: `sql_paths` is not a list of strings.
        """
        home = self.root / "supabase"
        seed = self.values.get("db", {}).get("seed", {})
        patterns = seed.get("sql_paths", ["./seed.sql"])
        if not (isinstance(patterns, list) and all(isinstance(one, str) for one in patterns)):
            raise InvalidConfig("[db.seed] sql_paths of supabase/config.toml must list strings")
        matches = [home / name for one in patterns for name in sorted(glob(one, root_dir=home))]
        files = [path.resolve() for path in matches if path.is_file()]
        return list(dict.fromkeys(files)) if seed.get("enabled", True) else []
