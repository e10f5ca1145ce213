"""The report out of whatever there is, and the text of a model while it is not whole."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minutehand.apps.plans.live import readable
from minutehand.apps.plans.models import PlanState
from minutehand.apps.plans.report import compose, markdown, working_days

OUTLINE = {"phases": [{"title": "One", "objective": "a"}, {"title": "Two", "objective": "b"}]}
DETAIL = {"steps": [{"title": "s", "detail": "d"}], "deliverable": "x", "days": 3}


def stage(name: str, result: Any = None, **more: Any) -> dict[str, Any]:
    """A stage as the API tells it."""
    status = "completed" if result is not None else "failed"
    return {"name": name, "position": 1, "status": status, "result": result, **more}


def state(*stages: dict[str, Any], status: str = "partial", **more: Any) -> PlanState:
    """A plan with these stages."""
    return PlanState.model_validate(
        {
            "id": "11111111-1111-7111-8111-111111111111",
            "session_id": "plan:1",
            "job_id": None,
            "goal": "Move",
            "request": {"goal": "Move", "deadline": "2026-11-27"},
            "run": 1,
            "status": status,
            "missing": [],
            "job": {"status": "cancelled"},
            "question": None,
            "phases": [],
            "stages": list(stages),
            "created_at": "2026-11-20T12:00:00Z",
            "finished_at": None,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("job", "status", "code"),
    [
        ({"status": "cancelled"}, "partial", "cancelled"),
        ({"status": "failed", "error": "lost 5 workers"}, "partial", "failed"),
        (None, "partial", "lost"),
        ({"status": "processing"}, "running", "unfinished"),
    ],
)
def test_there_is_a_report_whatever_became_of_the_job(job: Any, status: str, code: str) -> None:
    """Also before the first stage, and each missing part has its reason."""
    empty = compose(state(status=status, job=job))
    half = compose(
        state(stage("outline", OUTLINE), stage("phase:1", DETAIL), status=status, job=job)
    )

    assert [m.stage for m in empty.missing] == [
        "understand",
        "outline",
        "phases",
        "risks",
        "review",
    ]
    assert {m.code for m in [*empty.missing, *half.missing]} == {code}
    assert [m.stage for m in half.missing] == ["understand", "phase:2", "risks", "review"]
    assert half.estimate is not None
    assert (half.estimate.days, half.estimate.fits) == (3, None)
    assert "Partial report" in markdown(empty)
    assert "for the 1 of 2 phases" in markdown(half)


def test_a_plan_that_does_not_fit_says_so() -> None:
    """Five working days to a Friday a week away, six needed."""
    report = compose(
        state(
            stage("outline", OUTLINE), stage("phase:1", DETAIL), stage("phase:2", DETAIL),
            status="completed",
        )
    )  # fmt: skip

    assert report.estimate is not None
    assert (report.estimate.working_days_left, report.estimate.fits) == (5, False)
    assert "which is **not enough**" in markdown(report)


def test_working_days_are_those_between() -> None:
    """Weekends do not count, nor does the first day."""
    friday = date(2026, 11, 20)
    assert working_days(friday, date(2026, 11, 23)) == 1
    assert working_days(friday, date(2026, 12, 4)) == 10
    assert working_days(friday, friday) == 0
    assert working_days(friday, date(2026, 11, 1)) == 0


HOSTILE = st.sampled_from(
    ["<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://a)", "# h", "`c`",
     "**b**", "a\n\n# heading", "&lt;b&gt;", "|a|b|", "<http://a>", "~~s~~"]
)  # fmt: skip


@settings(deadline=None)
@given(HOSTILE)
def test_nothing_written_by_others_becomes_markup(text: str) -> None:
    """Neither HTML nor links, images, headings: every such sign is escaped, on one line."""
    outline = {"phases": [{"title": text, "objective": text}]}
    told = markdown(
        compose(
            state(
                stage("outline", outline),
                stage("review", {"summary": text, "gaps": [text], "next_step": text}),
                stage("risks", reason=text, code="x", draft=text),
                goal=text,
            )
        )
    )

    plain = told
    for sign in "\\`*_[]<>#|!~":
        plain = plain.replace(f"\\{sign}", "")
    own = {"# ", "## ", "### ", "> ", "**"}
    assert "<" not in plain
    assert "[" not in plain
    assert "`" not in plain
    assert "&lt;" not in plain
    for line in plain.splitlines():
        if line.startswith("#"):
            assert any(line.startswith(mark) for mark in own)


NAMES = st.text(max_size=5)
VALUES = st.recursive(
    st.text(max_size=20) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(VALUES, st.integers(0, 400))
def test_any_beginning_of_an_answer_can_be_shown(value: Any, length: int) -> None:
    """It never raises, and a whole one shows its texts."""
    text = json.dumps({"a": value})
    readable(text[:length])

    if isinstance(value, str) and value:
        assert readable(json.dumps({"name": value}, ensure_ascii=False)) == value


def test_names_are_not_shown_and_half_escapes_wait() -> None:
    """Only what the model says, as far as it has said it."""
    assert readable('{"title": "Sur') == "Sur"
    assert readable('{"a": "x", "tit') == readable('{"a": "x", "title"') == "x"
    assert readable('{"a": ["x", "y", "z') == "x\ny\nz"
    assert readable('{"title": "Survey", "steps": [{"detail": "Do \\"it\\u00') == 'Survey\nDo "it'
    assert readable("plain text") == "plain text"
