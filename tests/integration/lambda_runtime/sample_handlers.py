"""Small Lambda handlers that misbehave on request, run by awslambdaric in real processes."""

import json
import os
import pathlib
import sys
import threading
import time
from typing import Any

CALLS = 0


def count(event: dict[str, Any], context: Any) -> Any:
    """Answer what this environment knows of itself."""
    global CALLS
    CALLS += 1
    if event.get("seconds"):
        time.sleep(event["seconds"])
    while event.get("until") and not os.path.exists(event["until"]):
        time.sleep(0.01)
    return {
        "calls": CALLS,
        "pid": os.getpid(),
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "function": context.function_name,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "trace": os.environ.get("_X_AMZN_TRACE_ID"),
        "secret_of_the_launcher": os.environ.get("SECRET_OF_THE_LAUNCHER"),
        "echo": event,
    }


def hang(event: dict[str, Any], context: Any) -> Any:
    """Sleep past any deadline; the `finally` must never run."""
    path = pathlib.Path(event["mark"])
    path.write_text("entered")
    try:
        time.sleep(600)
    finally:
        path.write_text("finally ran")


def crash(event: dict[str, Any], context: Any) -> Any:
    """End the process in the middle of an invocation."""
    os._exit(7)


def fail(event: dict[str, Any], context: Any) -> Any:
    """Raise, after leaving a line per try."""
    with pathlib.Path(event["mark"]).open("a") as marks:
        marks.write("tried\n")
    print(json.dumps({"note": "about to raise"}), flush=True)
    raise ValueError("this handler always fails")


def background(event: dict[str, Any], context: Any) -> Any:
    """Start a thread that counts in a file for ever; frozen, it cannot count.

    Returns once it has counted on, however slow the machine is.
    """
    path = pathlib.Path(event["mark"])
    before = path.stat().st_size if path.exists() else 0

    def run() -> None:
        # one byte per beat: a freeze in the middle of a rewrite would leave an empty file
        with path.open("ab", buffering=0) as file:
            while True:
                file.write(b".")
                time.sleep(0.005)

    if event.get("start"):
        threading.Thread(target=run, daemon=True).start()
    while not path.exists() or path.stat().st_size <= before:
        time.sleep(0.005)
    return {"pid": os.getpid()}


def http(event: dict[str, Any], context: Any) -> Any:
    """Show the event, and answer in the HTTP API's own format."""
    if event.get("rawPath") == "/bare":
        return {"plain": True}
    if event.get("rawPath") == "/raise":
        raise RuntimeError("no")
    if event.get("rawPath") == "/slow":
        time.sleep(2)
    if event.get("rawPath") == "/binary":
        return {
            "statusCode": 200,
            "headers": {"Content-Type": "image/png"},
            "body": "iVBORw==",
            "isBase64Encoded": True,
        }
    return {
        "statusCode": 201,
        "headers": {
            "Content-Type": "application/json",
            "X-Request-Id": "r1",
            "Access-Control-Allow-Origin": "evil",
        },
        "cookies": ["a=1; Path=/", "b=2"],
        "body": json.dumps(event),
    }


def modules(event: dict[str, Any], context: Any) -> Any:
    """Which of the named modules this process could import."""
    return {"argv": sys.argv, "path": sys.path}
