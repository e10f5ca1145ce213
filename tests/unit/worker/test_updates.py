"""Updates of an attempt: which are to be reported, and what a lost report puts back."""

from collections.abc import Callable

import pytest

from minutehand.queue.models import LogLine, Progress, StepResult
from minutehand.worker.updates import Updates


def _show_step(updates: Updates) -> None:
    updates.start_step("charge")
    updates.show_step()


def _write(updates: Updates) -> None:
    updates.start_stream("reply", 1)
    updates.add_output("reply", 1, 0, None, "Hello", is_text=True)


CHANGES: dict[str, Callable[[Updates], None]] = {
    "progress": lambda updates: updates.set_progress(Progress(percentage=50)),
    "log": lambda updates: updates.add_log(LogLine(level="info", message="half")),
    "step": lambda updates: updates.add_step(StepResult(name="charge")),
    "running step": _show_step,
    "tags": lambda updates: updates.add_tags(["paid"]),
    "output": _write,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_reported_once_and_again_if_its_report_is_lost(kind: str) -> None:
    updates = Updates()
    assert not updates
    CHANGES[kind](updates)

    for _ in range(2):
        assert updates
        assert (updates.has_output, updates.has_updates) == (kind == "output", kind != "output")
        taken = updates.take()
        assert any(taken)
        assert not updates
        updates.restore(taken)

    again = updates.take()
    changed = [name for name, value in again._asdict().items() if value and name != "step"]
    assert changed == [name for name, value in taken._asdict().items() if value and name != "step"]
    assert (again.step is None) == (taken.step is None)


def test_what_is_put_back_comes_before_what_is_newer() -> None:
    updates = Updates()
    for change in (CHANGES["log"], CHANGES["progress"], _write):
        change(updates)
    lost = updates.take()

    updates.add_log(LogLine(level="info", message="done"))
    updates.set_progress(Progress(percentage=100))
    updates.add_output("reply", 1, 5, None, " Ada", is_text=True)
    updates.restore(lost)

    again = updates.take()
    assert again.progress == Progress(percentage=100)
    assert [line.message for line in again.logs] == ["half", "done"]
    assert again.logs_from == lost.logs_from, "the database would store the lost line twice"
    assert "".join(str(chunk.text) for chunk in again.output) == "Hello Ada"


def test_output_from_before_a_restart_is_not_put_back() -> None:
    updates = Updates()
    _write(updates)
    lost = updates.take()

    updates.start_stream("reply", 2)
    updates.restore(lost)

    assert [chunk.attempt for chunk in updates.take().output] == [2]


def test_a_report_has_a_maximum_of_bytes_of_output_and_at_least_one_chunk() -> None:
    updates = Updates()
    for stream in ("a", "b", "c"):
        updates.start_stream(stream, 1)
        updates.add_output(stream, 1, 0, None, "12345", is_text=True)

    taken = [[chunk.stream for chunk in updates.take(max_bytes=most).output] for most in (10, 1)]

    assert taken == [["a", "b"], ["c"]]
    assert updates.output_bytes == 0
