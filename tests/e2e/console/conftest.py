"""Fixtures: a real Chromium that shows the running stack's console.

A test fails if a page logs errors or warnings.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, sync_playwright

from minutehand.local.users import ADA, BOB, DemoUser
from tests.e2e.console.browsers import chromium
from tests.e2e.console.people import Visitor
from tests.e2e.console.worker import HandWorker, delete
from tests.support.stacks import RunningStack

RUNNING = pytest.StashKey[Browser]()


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Browser:
    """The browser of this folder's tests.

    Its event loop must end before async tests elsewhere begin, also if Chromium cannot start.
    """
    folder: pytest.Collector = request.node.parent
    if RUNNING not in folder.stash:
        with ExitStack() as starting:
            playwright = starting.enter_context(sync_playwright())
            folder.stash[RUNNING] = starting.enter_context(
                playwright.chromium.launch(
                    executable_path=chromium(), args=["--disable-gpu"], timeout=60_000
                )
            )
            ends = starting.pop_all()

        def end() -> None:
            del folder.stash[RUNNING]
            ends.close()

        folder.addfinalizer(end)
    return folder.stash[RUNNING]


@pytest.fixture
def workspace(stack: RunningStack) -> Iterator[dict[str, str]]:
    """A new workspace for each test. Ada manages it, Bob is a member, and Eve has no access."""
    made = {"id": str(uuid4()), "name": f"Test {uuid4().hex[:6]}"}
    stack.run("insert into workspaces (id, name) values (%s, %s)", *made.values())
    for person, role in ((ADA, "manager"), (BOB, "member")):
        stack.run(
            "insert into workspace_members (workspace_id, user_id, role) values (%s, %s, %s)",
            *(made["id"], person.id, role),
        )
    yield made
    delete(stack, "delete from workspaces where id = %s", made["id"])


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set up the fixture `visit` last, so that pages are closed before their rows are deleted.

    An open page would report a 404 as an error.
    """
    names: list[str] = getattr(item, "fixturenames", [])
    if "visit" in names:
        names.remove("visit")
        names.append("visit")


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser, stack: RunningStack, workspace: dict[str, str]) -> Iterator[Visit]:
    """A function that opens the console as a user.

    After the test, no page may have logged errors.
    """
    visitors: list[Visitor] = []

    def open_console(
        who: DemoUser | None = ADA, path: str = "/jobs", *, allow: tuple[str, ...] = ()
    ) -> Visitor:
        visitors.append(Visitor(browser, stack, who, workspace["id"], allow))
        if path:
            visitors[-1].open(path)
        return visitors[-1]

    yield open_console
    problems = [problem for visitor in visitors for problem in visitor.problems]
    for visitor in visitors:
        visitor.context.close()
    assert problems == []


@pytest.fixture
def worker(stack: RunningStack, workspace: dict[str, str]) -> Iterator[HandWorker]:
    """A worker that the test controls, with its own job type."""
    with HandWorker(stack, workspace["id"]) as hand:
        yield hand
