"""Lambda's runtime API for one function, whose environment is AWS's runtime client.

Protocol: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.support.http_server import http_server

#: The packages of Lambda's image besides Python.
IMAGE = (
    *("awslambdaric", "simplejson", "snapshot-restore-py"),
    *("boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six", "urllib3"),
)


def runtime_site(folder: Path) -> Path:
    """Create a folder with the packages of Lambda's image, as links into this environment."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in IMAGE:
        for file in distribution(name).files or ():
            top = folder / file.parts[0]
            if file.parts[0] not in {"..", "__pycache__"} and not top.exists():
                top.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / top.name)
    return folder


class LambdaFunction:
    """An execution environment of Lambda.

    It starts at the first invocation and is killed at a deadline.
    """

    def __init__(self, handler: str, *, tree: Path, site: Path, environ: Mapping[str, str]) -> None:
        self._events: queue.Queue[tuple[bytes, float]] = queue.Queue()
        #: For the invocation in flight: whether the function succeeded, and its response.
        self._answer: queue.Queue[tuple[bool, bytes]] = queue.Queue()
        self._ends = ExitStack()
        url = self._ends.enter_context(http_server(self._respond))
        self._command = [sys.executable, "-S", "-m", "awslambdaric", handler]
        self._tree = tree
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(tree), str(site)]),
            "AWS_LAMBDA_RUNTIME_API": url.removeprefix("http://"),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
            "AWS_LAMBDA_FUNCTION_NAME": handler,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "LAMBDA_TASK_ROOT": str(tree),
            "_HANDLER": handler,
            **environ,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def invoke(self, event: Any, *, seconds: float = 60.0) -> Any:
        """Invoke the function and return its response. There is one invocation at a time.

        Raises:
            TimeoutError: The function did not respond before its deadline, and was killed.
            RuntimeError: The function responded with this error, or its process ended.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._command, cwd=self._tree, env=self._environ)
            threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()
        self._answer = queue.Queue()
        self._events.put((json.dumps(event).encode(), time.time() + seconds))
        try:
            succeeded, body = self._answer.get(timeout=seconds)
        except queue.Empty:
            self.kill()
            raise TimeoutError(f"no answer within {seconds} s") from None
        if not succeeded:
            raise RuntimeError(body.decode())
        return json.loads(body)

    def kill(self) -> None:
        """Kill the environment."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Respond with Lambda's error when the process ends."""
        code = process.wait()
        end = f"signal: {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._answer.put((False, f"Runtime exited with error: {end}".encode()))

    def close(self) -> None:
        """End the environment and the API."""
        self.kill()
        self._ends.close()

    def _respond(self, path: str, _: Message, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Serve the runtime API: return the next event, or store a result or a start error."""
        if path.endswith("/next"):
            event, deadline = self._events.get()
            return (
                200,
                event,
                {
                    "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
                    "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:x",
                    "Content-Type": "application/json",
                },
            )
        self._answer.put((path.endswith("/response"), body))
        return 202, b"", {}
