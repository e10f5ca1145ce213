"""Tracebacks as attempts keep them: the user's lines first, no values, no secrets, bounded."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.queue.errors import ProcessorError
from minutehand.redaction import HIDDEN
from minutehand.worker import tracebacks
from minutehand.worker.tracebacks import (
    MOST_CAUSES,
    MOST_FRAMES,
    MOST_FRAMES_OF_CAUSE,
    MOST_MESSAGE,
    describe,
    describe_lines,
    describe_stack,
    running,
    suspended,
)

PACKAGE = __name__


def caught(call: Callable[[], Any]) -> BaseException:
    """The error that `call` raises."""
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def described(call: Callable[[], Any]) -> dict[str, Any]:
    """Its traceback as an attempt keeps it."""
    found = describe(caught(call), package=PACKAGE)
    assert found is not None
    return found


def test_of_an_error_whose_words_its_author_chose_no_cause_is_kept() -> None:
    """Members read it; what the vendor said stays in the worker's log."""
    secret = "no such account: ada@acme.test"

    def ask() -> None:
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise ProcessorError("the vendor refused") from error

    told = described(ask)

    assert set(told) == {"frames"}
    assert secret not in json.dumps(told)


def test_the_innermost_line_of_the_users_own_code_is_the_first() -> None:
    """What raised may be a library; what is to be changed seldom is."""

    def parse() -> None:
        json.loads("{")

    told = described(parse)
    frames = told.pop("frames")

    assert told == {}, "nothing was left out, and nothing beneath it"

    assert (frames[0]["function"], frames[0]["code"], frames[0]["own"]) == (
        "parse",
        'json.loads("{")',
        True,
    )
    assert frames[0]["file"].endswith("test_tracebacks.py")
    assert not frames[0]["file"].startswith("/")
    assert [frame["own"] for frame in frames] == sorted(
        (frame["own"] for frame in frames), reverse=True
    )
    assert any(frame["file"].endswith("decoder.py") for frame in frames)


@pytest.mark.parametrize(
    ("path", "package", "own"),
    [
        ("/app/job.py", "", True),
        ("/app/other.py", "job.main", False),
        ("/app/jobs.py", "job.main", False),
        ("/v/site-packages/job.py", "job.main", True),
        ("/v/site-packages/lib.py", "", False),
        ("/v/dist-packages/lib.py", "", False),
        ("/usr/lib/json.py", "", False),
        ("<string>", "", False),
    ],
)
def test_a_line_of_another_process_is_the_users_by_its_path(
    path: str, package: str, own: bool
) -> None:
    frame = {"file": path.rpartition("/")[2], "line": 3, "function": "f", "code": "", "own": own}

    assert describe_lines([(path, 3, "f")], package=package) == {"frames": [frame]}
    assert describe_lines([(str(tracebacks.__file__), 3, "f")]) is None


@pytest.mark.parametrize("hidden", [False, True])
def test_what_was_being_handled_is_a_cause_unless_it_is_hidden(hidden: bool) -> None:
    def fail() -> None:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            if hidden:
                raise ValueError from None
            raise ValueError  # noqa: B904 - as most code does

    causes = described(fail).get("causes", [])
    assert [each["type"] for each in causes] == ([] if hidden else ["ZeroDivisionError"])


def test_a_running_stack_is_read_outermost_first() -> None:
    found = running(sys._getframe())

    assert found[-1] is sys._getframe()
    assert all(inner.f_back is outer for outer, inner in pairwise(found))
    assert found[0].f_back is None


def test_no_value_of_a_variable_is_kept() -> None:
    """The payload may be personal, and a password is a local too."""
    password = "correct horse battery staple"

    def fail() -> None:
        raise ValueError(len(password))

    assert password not in json.dumps(described(fail))


def test_a_secret_in_a_line_of_code_is_hidden() -> None:
    """A literal key in the source is bad enough where it is; so in what a cause says."""

    def fail() -> None:
        try:
            dict(api_key="sk_live_0123456789abcdef", n=1 / 0)
        except ZeroDivisionError:
            raise KeyError("api_key=sk_live_0123456789abcdef") from None

    def fail_again() -> None:
        try:
            fail()
        except KeyError as error:
            raise RuntimeError("no account") from error

    told = described(fail_again)

    assert "0123456789abcdef" not in json.dumps(told)
    assert HIDDEN in json.dumps(described(fail))
    assert HIDDEN in told["causes"][0]["message"]


def test_causes_are_shown_to_the_last() -> None:
    """`raise … from` is how good code fails."""

    def fail() -> None:
        try:
            raise KeyError("rate")
        except KeyError as error:
            raise RuntimeError("no invoice") from error

    [cause] = described(fail)["causes"]

    assert (cause["type"], cause["message"]) == ("KeyError", "'rate'")
    assert cause["frames"][0]["code"] == 'raise KeyError("rate")'


def test_errors_of_a_task_group_are_shown_as_causes() -> None:
    """The group itself says only that there were some."""

    async def one(n: int) -> None:
        raise ValueError(n)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(9):
                group.create_task(one(n))

    told = described(lambda: asyncio.run(both()))
    causes = told["causes"]

    assert told["frames"][0]["function"] == "one"
    assert len(causes) == MOST_CAUSES
    assert {cause["frames"][0]["function"] for cause in causes} == {"one"}


def test_an_error_without_a_line_of_ours_has_the_one_of_its_cause() -> None:
    """Python itself makes this one of a StopIteration."""

    async def take() -> None:
        next(iter(()))

    error = caught(lambda: take().send(None)).with_traceback(None)
    told = describe(error, package=PACKAGE)

    assert told is not None
    assert told["frames"][0]["code"] == "next(iter(()))"


def test_a_recursion_is_folded_and_keeps_its_caller() -> None:
    """A thousand frames of one function say no more than one, and hide where it began."""

    def deeper(n: int) -> int:
        return deeper(n - 1) + 1 // n

    def ping(n: int) -> int:
        return pong(n - 1) if n else 1 // n

    def pong(n: int) -> int:
        return ping(n - 1) if n else 1 // n

    def begin() -> None:
        deeper(60)

    frames = described(begin)["frames"]
    assert [(frame["function"], frame.get("times", 1) > 500) for frame in frames][:2] == [
        ("deeper", True), ("begin", False)
    ]  # fmt: skip
    circle = described(lambda: ping(60))["frames"]
    assert {frame["function"] for frame in circle if frame.get("times", 1) > 20} == {"ping", "pong"}


def test_the_outermost_own_frame_is_kept_of_too_many() -> None:
    """Of functions that differ, and so do not fold."""
    source = "\n".join(f"def f{n}(): f{n - 1}()" for n in range(1, 60))
    scope: dict[str, Any] = {"f0": lambda: 1 // 0, "__name__": __name__}
    exec(compile(source, __file__, "exec"), scope)

    told = described(scope["f59"])

    assert len(told["frames"]) == MOST_FRAMES
    assert told["left_out"] == 60 - MOST_FRAMES + 1, "with the one that the test itself adds"
    assert len(json.dumps(told)) < 20_000


def test_a_chain_that_bites_its_tail_ends() -> None:
    """Somebody raises an error from itself."""

    def fail() -> None:
        error = ValueError("a")
        error.__cause__ = other = ValueError("b")
        other.__cause__ = error
        raise error

    assert [cause["message"] for cause in described(fail)["causes"]] == ["b"]


def test_the_engines_own_frames_are_left_out() -> None:
    """They are the same for every job."""

    class Broken(BaseModel):
        pass

    from minutehand.worker.registry import Registry

    error = caught(lambda: Registry().get("nothing"))
    told = describe(error, package=PACKAGE)
    assert told is not None
    assert all("registry.py" not in frame["file"] for frame in told["frames"])


async def test_where_a_processor_hangs_is_shown() -> None:
    """One that ignores its cancellation leaves no error to look at."""

    async def hang() -> None:
        await asyncio.sleep(60)

    async def around() -> None:
        await hang()

    task = asyncio.create_task(around())
    await asyncio.sleep(0)
    told = describe_stack(suspended(task), package=PACKAGE)
    task.cancel()

    assert told is not None
    assert told["frames"][0]["code"] == "await asyncio.sleep(60)"


def test_a_cause_has_few_frames_and_few_words_or_those_of_its_type() -> None:
    """Ten causes of a megabyte each would be the largest part of a job."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    source = "\n".join(f"def f{n}(): f{n - 1}()" for n in range(1, 30))
    for error, message in (
        (ValueError("x" * 9000), "x" * MOST_MESSAGE),
        (Mute(), "Mute"),
    ):
        scope: dict[str, Any] = {"error": error, "__name__": __name__}
        exec(compile(f"def f0(): raise error\n{source}", __file__, "exec"), scope)

        def fail(begin: Callable[[], None] = scope["f29"]) -> None:
            try:
                begin()
            except Exception as raised:
                raise RuntimeError from raised

        [cause] = described(fail)["causes"]
        assert len(cause["frames"]) == MOST_FRAMES_OF_CAUSE
        assert cause["message"] == message
