"""Ends the local worker after a change of its apps' files.

After the local worker has ended, the host process starts a new worker.

The old worker releases its running jobs, and the new worker continues each job after the job's last
finished step.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.deploy.apps import FILE

logger = logging.getLogger("minutehand.local.hot_reload")

#: Seconds between scans of the apps' files. A scan takes milliseconds. The operating system's file
#: events are not used, because they can be lost under load or in new folders.
SCAN_SECONDS = 0.5

#: Version of each file of the apps, which consists of the file's modification time in ns and size.
Files = Mapping[Path, tuple[int, int]]


async def end_on_change(settings: Settings, loaded: Files, end: Callable[[], object]) -> None:
    """Watch the folders of the apps, and call `end` at the first change.

    Args:
        loaded: Versions of the files before the worker loaded its processors, so that the first
            scan finds later changes.
    """
    folders, versions = reload_folders(settings), loaded
    while versions == loaded:
        await asyncio.sleep(SCAN_SECONDS)
        versions = await asyncio.to_thread(files_of, folders)
    changed = [path for path in {*loaded, *versions} if loaded.get(path) != versions.get(path)]
    names = sorted(path.name for path in changed)
    logger.info("files changed", extra={"event": "reload.seen", "files": names})
    if FILE in names:
        logger.warning("%s changed; start `minutehand dev` again to use its variables", FILE)
    drop_compiled(changed)
    end()


def drop_compiled(paths: Iterable[Path]) -> None:
    """Delete byte code.

    Python would use old byte code if a file changes twice within a second and keeps its size.
    """
    for path in paths:
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def files_of(folders: Iterable[Path]) -> Files:
    """Return the versions of all Python files and `lambda.yml` files below these folders."""
    versions = {}
    found = (folder.rglob(name) for folder in folders for name in ("*.py", FILE))
    for path in chain.from_iterable(found):
        with suppress(FileNotFoundError):  # someone has removed the file
            versions[path] = (path.stat().st_mtime_ns, path.stat().st_size)
    return versions


def reload_folders(settings: Settings) -> list[Path]:
    """Return the folders of the apps.

    For the setting `package.*`, this is the folder of the package, in which new apps appear.
    """
    wildcards = [name for name in settings.apps if name.endswith(".*")]
    project_apps = (app for app in find_apps(wildcards) if not app.is_built_in)
    parents = {app.folder.parent for app in project_apps}
    folders = {app.folder for app in find_apps(settings.apps)}
    return sorted(parents | {folder for folder in folders if folder.parent not in parents})
