"""The page of routes in functions/README.md against the routes themselves."""

from __future__ import annotations

import re
from pathlib import Path

from minutehand.config import Settings
from minutehand.functions.status.document import whole_document
from minutehand.web.services import Services

PAGE = Path(__file__).resolve().parents[3] / "functions/README.md"


def test_the_page_names_every_route_and_no_other() -> None:
    """What a newcomer reads first is complete, and still true."""
    settings = Settings(
        supabase_url="http://127.0.0.1:1",
        supabase_publishable_key="sb_publishable_test",
        apps=("minutehand_apps.*",),
    )
    paths = whole_document(Services(settings))["paths"]
    served = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}

    named = re.findall(r"^\| `([A-Z]+ /\S+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)

    assert set(named) == served
    assert len(named) == len(served)
