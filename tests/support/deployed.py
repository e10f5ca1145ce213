"""Runs the Lambda functions that a deploy uploaded, from their zip.

Each function runs under AWS's runtime client with its variables from CloudFormation. Modules
compiled for Lambda are replaced by those of this machine, of the same lock file.
"""

import io
import re
import sys
import threading
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.support.aws_account import Account
from tests.support.lambda_runtime import LambdaFunction


class Deployed:
    """An AWS account whose functions run. `minutehand deploy` sends its requests to `account`.

    Args:
        site: Folder with the packages of Lambda's image.
        folder: Folder for the unzipped code.
    """

    def __init__(self, site: Path, folder: Path) -> None:
        self.account = Account(self.invoke)
        self._site, self._folder = site, folder
        self._running: dict[str, tuple[object, LambdaFunction]] = {}
        #: A lock of each function, which an invocation holds.
        self.one_at_a_time: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def close(self) -> None:
        """End every running function, and the account."""
        self.account.close()
        for _, function in self._running.values():
            function.close()

    def invoke(self, name: str, event: Any, seconds: float = 240) -> Any:
        """Invoke a function as it is deployed now. End an older version of the function before."""
        with self.one_at_a_time[name]:
            return self._function(name).invoke(event, seconds=seconds)

    def _function(self, name: str) -> LambdaFunction:
        from moto.awslambda.models import lambda_backends

        [backend] = [each["us-east-1"] for each in lambda_backends.values()]
        made = backend.get_function(name)
        assert made.handler
        variables = dict(made.environment_vars)
        known, running = self._running.get(name, (None, None))
        if running is not None:
            if known == (made.code_sha_256, variables):
                return running
            running.close()
        running = LambdaFunction(
            made.handler,
            tree=self._tree(made.code_sha_256, made.code_bytes),
            site=self._site,
            environ={**variables, "AWS_ENDPOINT_URL": self.account.url},
        )
        self._running[name] = (made.code_sha_256, variables), running
        return running

    def _tree(self, digest: str, code: bytes) -> Path:
        tree = self._folder / re.sub(r"\W", "", digest)
        if not tree.exists():
            zipfile.ZipFile(io.BytesIO(code)).extractall(tree)
            compile_for_this_machine(tree)
        return tree


def compile_for_this_machine(tree: Path) -> None:
    """Replace the modules that are compiled for Lambda by this environment's modules."""
    sites = [Path(path) for path in sys.path if path.endswith("site-packages")]
    for foreign in tree.rglob("*.so"):
        folder, module = foreign.parent, foreign.name.partition(".")[0]
        place = folder.relative_to(tree)
        [ours] = [file for site in sites for file in (site / place).glob(f"{module}.*so")]
        foreign.unlink()
        (folder / ours.name).symlink_to(ours)
