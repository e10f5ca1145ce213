"""A Dockerfile's steps carried out in folders of this machine: there is no Docker where tests run.

Each stage is a folder; the container's absolute paths are folders in it. The base images, the user
and the published port are not here: whatever of the recipe they hold is left to `docker build`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

#: Makes the image's user, which needs rights over the machine.
ADDS_A_USER = re.compile(r"useradd ")


@dataclass
class Stage:
    """One `FROM`: its folder, and what the instructions so far have set."""

    base: str
    root: Path
    workdir: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def inside(self, text: str) -> str:
        """A command or a value with the container's paths as this stage's folders."""
        names = "|".join(sorted(path.name for path in self.root.iterdir()))
        return re.sub(rf"(?<![\w./])/(?={names})" if names else "$^", f"{self.root}/", text)

    def path(self, name: str) -> Path:
        """A path of the container, relative ones below its working directory."""
        return self.root / (Path(self.workdir) / name).as_posix().lstrip("/")

    def environment(self, **more: str) -> dict[str, str]:
        """What a process of this stage is given."""
        path = self.inside(self.variables.get("PATH", "$PATH"))
        own = {name: self.inside(value) for name, value in self.variables.items()}
        return {**own, **more, "PATH": path.replace("$PATH", more["PATH"])}

    def run(self, command: str, **more: str) -> None:
        """A shell command in the working directory.

        Raises:
            CalledProcessError: It failed.
        """
        subprocess.run(
            ["sh", "-euc", self.inside(command)],
            cwd=self.path("."),
            env=self.environment(**more),
            check=True,
            timeout=900,
        )


def build(recipe: Path, context: Path, folder: Path, **environment: str) -> Stage:
    """Carry out every stage; return the last.

    Args:
        recipe: The Dockerfile.
        context: The folder that `COPY` copies from.
        folder: Where the stages are made.
        environment: What the base images bring, `PATH` above all.

    Raises:
        ValueError: An instruction that is not known here, or one without its files.
    """
    stages: dict[str, Stage] = {}
    lines = re.sub(r"\\\n", " ", recipe.read_text("utf-8")).splitlines()
    stage: Stage | None = None
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = Stage(base, folder / (name or "last"))
            stage.root.mkdir(parents=True)
            stages[name or "last"] = stage
            continue
        assert stage is not None
        _carry_out(stage, word, rest.strip(), stages, context, environment)
    assert stage is not None
    return stage


def _carry_out(
    stage: Stage,
    word: str,
    rest: str,
    stages: dict[str, Stage],
    context: Path,
    environment: dict[str, str],
) -> None:
    match word:
        case "WORKDIR":
            stage.workdir = rest
            stage.path(".").mkdir(parents=True, exist_ok=True)
        case "ENV":
            stage.variables |= dict(pair.split("=", 1) for pair in rest.split())
        case "USER":
            stage.user = rest
        case "EXPOSE":
            pass
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.healthcheck = json.loads(rest.partition(" CMD ")[2])
        case "RUN" if not ADDS_A_USER.match(rest):
            for made in re.findall(r"(?<![\w./])/(\w+)", rest):
                # what a command makes below the container's root is made below the stage's
                if not Path("/", made).is_dir():
                    (stage.root / made).mkdir(exist_ok=True)
            stage.run(rest, **environment)
        case "RUN":
            pass
        case "COPY":
            _copy(stage, rest.split(), stages, context)
        case _:
            raise ValueError(f"{word} is not known here")


def _copy(stage: Stage, words: list[str], stages: dict[str, Stage], context: Path) -> None:
    source = context
    if words[0].startswith("--from="):
        source = stages[words.pop(0).removeprefix("--from=")].root
    *names, target = words
    for name in names:
        there = source / name.lstrip("/")
        if not there.exists():
            raise ValueError(f"COPY {name}: there is no such file")
        to = stage.path(target)
        if there.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(
                there, to, symlinks=True, ignore=ignored, dirs_exist_ok=True, copy_function=_link
            )
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(there, to / there.name)


def _link(source: str, target: str) -> str:
    """A hard link where the file system allows it: nothing copied is written to."""
    try:
        os.link(source, target, follow_symlinks=False)
        return target
    except OSError:
        return str(shutil.copy2(source, target, follow_symlinks=False))
