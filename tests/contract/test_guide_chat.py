"""The guide to background work in the chat: each printed command and SQL statement is run."""

import json
import re
import threading
from collections.abc import Callable

import httpx
import pytest

from tests.contract.conftest import Sql
from tests.contract.guide import Json, bash
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.stacks import RunningStack

RESEARCH = "Research the latest AI trends and build me an interactive dashboard to visualize them"
BUILD = "Build a complex data visualization dashboard"
REPORT = "Research AI safety and build a comprehensive report"
HISTORY = (
    "Analyze the entire history of programming languages and create an interactive timeline"
    " visualization with detailed information about each language"
)
Shell = Callable[..., str]


@pytest.fixture
def shell(stack: RunningStack) -> Shell:
    """A function that runs a command of the guide at the stack's address and returns its output."""
    variables = {"DATABASE_URL": stack.database_url, "ENABLE_ASYNC_WORK": stack.enable_async_work}

    def run(command: str, **more: str) -> str:
        printed = r"https://your-app\.com|http://localhost:3000"
        return bash(re.sub(printed, stack.api_url, command), **variables, **more)

    return run


@pytest.fixture(scope="module")
def sessions() -> list[str]:
    """The chat session ids used so far. The guide makes an id from the current second."""
    return []


@pytest.fixture
def session(shell: Shell, sessions: list[str]) -> str:
    """Return a new chat session id, made like the guide's `SESSION_ID="test_$(date +%s)"`."""
    made = 'SESSION_ID="test_$(date +%s)"; echo -n $SESSION_ID'
    sessions.append(str(until(lambda: (one := shell(made)) not in sessions and one, every=0.2)))
    return sessions[-1]


def given(shell: Shell, command: str, **variables: str) -> Json:
    return json.loads(shell(command, **variables))


def say(shell: Shell, session: str, text: str) -> Json:
    """Send a chat message with the guide's curl command for `POST /api/chat`."""
    body = json.dumps({"messages": [{"role": "user", "content": text}]})
    command = """curl -X POST https://your-app.com/api/chat \\
  -H "Content-Type: application/json" \\
  -H "x-session-id: $SESSION_ID" \\
  -d "$BODY" """
    return given(shell, command, SESSION_ID=session, BODY=body)


def status(shell: Shell, session: str) -> Json:
    command = """curl "https://your-app.com/api/async-status?sessionId=$SESSION_ID" | jq '.'"""
    return given(shell, command, SESSION_ID=session)


def question_of(shell: Shell, session: str) -> Json:
    """Wait until the chat session has a question, and return `GET /api/async-messages`."""
    until(lambda: status(shell, session)["pendingQuestions"])
    command = """curl "https://your-app.com/api/async-messages?sessionId=$SESSION_ID" | jq '.'"""
    return given(shell, command, SESSION_ID=session)


def answer_to(shell: Shell, session: str, message: str) -> Json:
    command = """curl -X POST https://your-app.com/api/async-messages \\
  -H "Content-Type: application/json" \\
  -d '{
    "messageId": "'$MESSAGE'",
    "sessionId": "'$SESSION_ID'",
    "content": "Use a blue and white color scheme"
  }' | jq '.'"""
    return given(shell, command, SESSION_ID=session, MESSAGE=message)


def test_quick_start(shell: Shell, sql: Sql) -> None:
    """The guide's environment variable is set, and psql finds the tables that the guide names."""
    assert shell("echo $ENABLE_ASYNC_WORK") == "true\n"
    tables = sql("""SELECT table_name FROM information_schema.tables
WHERE table_schema = 'public'
AND table_name IN ('async_session_state', 'async_work_items');""")
    assert {name for (name,) in tables} == {"async_session_state", "async_work_items"}
    assert "async_session_state" in shell(r'psql $DATABASE_URL -c "\dt async_*"')
    assert "1 row" in shell('psql $DATABASE_URL -c "SELECT 1"')


def test_the_suite_passes(shell: Shell, stack: RunningStack) -> None:
    """The script `./tests/async-work/test-async-production.sh` passes against the stack."""
    command = f"cd '{ROOT}' && ./tests/async-work/test-async-production.sh"
    response = shell(command, API_BASE=stack.api_url)

    assert response.endswith("all passed\n")
    assert "FAIL" not in response
    assert "a question is answered" in response


def test_scenario_1_status(shell: Shell, session: str) -> None:
    """After a complex chat request, `/api/async-status` returns every field the guide names."""
    assert re.fullmatch(r"test_\d{10}", session)
    begun = say(shell, session, RESEARCH)
    found = until(lambda: (now := status(shell, session))["activeWork"] and now)

    assert set(found) >= {
        "sessionId",
        "activeWork",
        "pendingQuestions",
        "unreadMessageCount",
        "queueStatus",
    }
    assert found["sessionId"] == session
    assert set(found["queueStatus"]) == {"queued", "executing"}
    [work] = found["activeWork"]
    assert work["id"] == begun["work"][0]["id"]
    assert work["id"].startswith("work_")
    assert work["type"] == "research"
    assert work["status"] in {"accepted", "in_progress", "waiting_for_user"}
    assert isinstance(work["estimatedDuration"], int)
    assert isinstance(work["elapsedSeconds"], int)
    assert set(work["progress"]) >= {"stage", "percentage", "message"}


def test_scenario_2_events(shell: Shell, stack: RunningStack, session: str) -> None:
    """An open event stream delivers the work's events, from its start to its result."""
    lines: list[Json] = []

    def read() -> None:
        url = f"{stack.api_url}/api/async-events?sessionId={session}"
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("GET", url, headers=headers) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    lines.append(json.loads(line.removeprefix("data: ")))
                    if lines[-1]["type"] == "work_completed":
                        return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    until(lambda: lines)
    assert lines[0]["type"] == "connected"
    assert lines[0]["sessionId"] == session
    say(shell, session, BUILD)
    answer_to(shell, session, question_of(shell, session)["pendingQuestions"][0]["id"])
    reader.join(120)

    kinds = [each["type"] for each in lines]
    assert kinds[1] == "work_started"
    assert kinds[-1] == "work_completed"
    assert {each["sessionId"] for each in lines} == {session}
    assert all(isinstance(each["timestamp"], int) for each in lines)
    assert len({each["workId"] for each in lines[1:]}) == 1
    shown = [each["data"] for each in lines if each["type"] == "work_progress"]
    stages = list(dict.fromkeys(each["stage"] for each in shown))
    assert stages[:2] == ["ANALYZING", "BUILDING"]
    assert all(each["message"] for each in shown)
    page = lines[-1]["data"]["result"]["page"]
    assert httpx.get(stack.api_url + page["url"]).text.startswith("<!doctype html>")


def test_scenario_4_messages(shell: Shell, session: str) -> None:
    """A user answers a job's question about colours. The chat session then gets a web page."""
    say(shell, session, RESEARCH)
    found = question_of(shell, session)

    assert found["sessionId"] == session
    assert found["unreadCount"] == 1
    [message] = found["messages"]
    assert message["workId"] == found["workId"]
    assert (message["direction"], message["type"]) == ("to_user", "question")
    assert message["content"] == "What color scheme would you like for the dashboard?"
    assert message["requiresResponse"] is True
    assert found["pendingQuestions"] == [message]
    answered = answer_to(shell, session, message["id"])
    assert answered["success"] is True
    [ended] = until(lambda: status(shell, session)["endedWork"])
    assert (ended["status"], set(ended["result"])) == ("completed", {"messageId", "text", "page"})
    assert status(shell, session)["unreadMessageCount"] == 1


def test_scenario_5_persistence(shell: Shell, sql: Sql) -> None:
    """Completed chat work is stored in the tables that the guide queries."""
    session = shell('SESSION_ID="persist_test_$(date +%s)"; echo -n $SESSION_ID')
    begun = say(shell, session, REPORT)["work"][0]["id"]
    [ended] = until(lambda: status(shell, session)["endedWork"])

    assert ended["id"] == begun
    assert len(sql("SELECT * FROM async_session_state WHERE session_id = %s;", session)) == 1
    work = sql("SELECT id, type, status FROM async_work_items WHERE session_id = %s;", session)
    assert work == [(begun, "research", "completed")]


def test_troubleshooting(shell: Shell, stack: RunningStack) -> None:
    """A chat request without a session id starts background work in a new chat session.

    The server logs "Request classified".
    """
    command = """curl -X POST https://your-app.com/api/chat \\
  -H "Content-Type: application/json" \\
  -d "$BODY" """
    body = json.dumps({"messages": [{"role": "user", "content": HISTORY}]})
    begun = given(shell, command, BODY=body)

    assert begun["tier"] == "async"
    assert len(begun["work"]) == 1
    shown = status(shell, begun["sessionId"])
    # On a slow machine, the work may have ended before this read.
    assert shown["activeWork"] or shown["endedWork"]
    terminal = stack.folder / "launcher.out"
    until(lambda: "Request classified" in terminal.read_text(errors="replace"))
    first = shell(
        'curl -N -s --max-time 3 -H "Accept: text/event-stream" '
        '"http://localhost:3000/api/async-events?sessionId=test" || true'
    )
    assert '"type":"connected"' in first


def test_monitoring(shell: Shell, session: str, sql: Sql) -> None:
    say(shell, session, RESEARCH)
    command = """curl "https://your-app.com/api/async-status?sessionId=any" | jq '.queueStatus'"""
    assert set(given(shell, command)) == {"queued", "executing"}
    for statement in (
        "SELECT COUNT(*) as total_sessions FROM async_session_state;",
        "SELECT COUNT(*) as total_work FROM async_work_items;",
        """SELECT COUNT(*) as active_work FROM async_work_items
   WHERE status IN ('accepted', 'in_progress');""",
    ):
        assert len(sql(statement)) == 1
    rates = sql("""SELECT
     status,
     COUNT(*) as count,
     ROUND(100.0 * COUNT(*) / SUM(COUNT(*)) OVER (), 2) as percentage
   FROM async_work_items
   GROUP BY status;""")
    assert sum(share for _, _, share in rates) == pytest.approx(100, abs=0.1)
