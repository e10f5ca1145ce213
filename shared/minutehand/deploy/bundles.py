"""What goes into which zip: the functions, their files, their third-party roots, their budgets.

Reading the import graph is imports.py; building is build.py.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Provided by Lambda's Python runtime: bundling them would add 33 MB for nothing.
RUNTIME_MODULES = frozenset({"boto3", "botocore", "s3transfer", "jmespath", "awslambdaric"})

#: Imported by name at run time (by Starlette), so no import statement of ours shows.
IMPLIED = {
    "fastapi": ("python-multipart",),
}

MEBIBYTE = 1024 * 1024


class PackagingError(Exception):
    """The zip cannot be built, or must not be shipped; the message says what to change."""


@dataclass(frozen=True)
class Bundle:
    """One zip: which functions it serves and how large it may become.

    With `apps` the whole package and the project's apps are taken, because processors and routes
    are found at run time; else only the modules that the handlers' import statements reach.
    """

    name: str
    functions: tuple[str, ...]
    apps: bool
    zipped_budget: int
    unzipped_budget: int

    @property
    def handlers(self) -> tuple[str, ...]:
        """Module names that Lambda imports."""
        return tuple(f"minutehand.functions.{name}.handler" for name in self.functions)


BUNDLES = (
    Bundle(
        name="app",
        functions=("jobs", "status", "worker"),
        apps=True,
        zipped_budget=14 * MEBIBYTE,
        unzipped_budget=45 * MEBIBYTE,
    ),
    # Its cold start is a probe's answer: it carries nothing that it does not import.
    Bundle(
        name="health",
        functions=("health",),
        apps=False,
        zipped_budget=10 * MEBIBYTE,
        unzipped_budget=30 * MEBIBYTE,
    ),
)


@dataclass(frozen=True)
class Target:
    """A machine to build for.

    `platform` is uv's name of it, or None for this machine; `compiler` is `pyodide` for CPython
    3.13 regardless of this machine's, or `host` for the running interpreter.
    """

    name: str
    python: str
    platform: str | None
    compiler: str

    @property
    def is_lambda(self) -> bool:
        """Whether the result may be deployed."""
        return self.platform is not None


#: Amazon Linux 2023 has glibc 2.34; 2.28 wheels are what vendors publish for it.
LAMBDA = Target("lambda", "3.13", "aarch64-manylinux_2_28", "pyodide")
