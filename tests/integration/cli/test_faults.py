"""Planted faults at the terminal: `show` and `explain` give cause, line and remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from minutehand.local.users import ADA
from tests.support.command import Run
from tests.support.faults import FAULTS, Fault, FaultyHost, faulty_host
from tests.support.stacks import RunningStack


@pytest.fixture(scope="module")
def host(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyHost]:
    """The product with processors that go wrong."""
    with faulty_host(stack, tmp_path_factory.mktemp("faulty")) as running:
        yield running


@pytest.fixture
def run(host: FaultyHost) -> Run:
    """Run a command line against the host."""
    return Run(env={"MINUTEHAND_ENV_FILE": str(host.folder / "env")})


def told(run: Run, fault: Fault, job_id: str) -> list[str]:
    """What the terminal says of a fault, by command."""
    if fault.state == "schedule":
        return [run("schedules", "set", "never", "0 0 30 2 *", "faulty.step", code=1).stderr]
    if fault.state == "refused":
        payload = json.dumps(fault.payload)
        return [run("enqueue", f"faulty.{fault.kind}", payload, code=1).stderr]
    return [run("show", job_id).output, run("explain", job_id).output]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_from_the_terminal_alone(
    run: Run, host: FaultyHost, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At night there may be a phone and an ssh session."""
    if fault.who is not ADA:
        monkeypatch.setenv("MINUTEHAND_TOKEN", host.sign_in(fault.who.email))
    with host.planted(fault) as job_id:
        answers = [" ".join(each.split()) for each in told(run, fault, job_id)]

    whole = " ".join(answers)
    missing = [
        word
        for word in fault.words
        if not (word in whole if isinstance(word, str) else re.search(word, whole))
    ]
    assert missing == [], whole
    # both commands say what to do
    assert all(fault.remedy in each for each in answers if isinstance(fault.remedy, str)), answers


def test_a_recursion_is_folded_and_keeps_its_caller(run: Run, host: FaultyHost) -> None:
    """Twenty equal frames fill two screens, and the one that matters is not among them."""
    job_id = host.enqueue("deep", {})
    host.wait(job_id, "failed")
    job = run.json("show", job_id)

    frames = job["details"]["attempts"][-1]["traceback"]["frames"]
    own = [(frame["function"], frame.get("times", 1) > 100) for frame in frames if frame["own"]]
    assert own == [("sink", True), ("call_itself", False)]


def test_a_failure_becomes_a_prompt_without_values_and_secrets(run: Run, host: FaultyHost) -> None:
    """An agent needs the line and what the payload looks like, not whose card it was."""
    job_id = host.enqueue("telling", {"number": 4711, "what": "card of Ada"})
    host.wait(job_id, "failed")

    text = run("show", job_id, "--prompt").stdout

    fault = Fault("", "telling", (), "", line="telling")
    told = (
        "ValueError: the card was refused",
        fault.place,
        '"number": "integer"',
        "sign in",
        "info",
    )
    assert [word for word in told if word not in text] == []
    assert [word for word in ("4711", "card of Ada", "abcdefgh12345678") if word in text] == []
    assert text.count("\n````\n") == 2  # a log line ends no fence
    assert (
        run("show", job_id, "--prompt", "--json").stdout == json.dumps({"text": text[:-1]}) + "\n"
    )
