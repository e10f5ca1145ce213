"""The schema goes to the stage's project."""

from __future__ import annotations

import pytest

from minutehand.cli.supabase_cli import project_ref
from minutehand.terminal.connection import CommandFailed

REF = "abcdefghijklmnopqrst"


def test_the_project_is_the_urls_own_or_the_named_one() -> None:
    """A domain of one's own does not show whose schema it is."""
    own = {"supabaseUrl": "https://data.example.com"}

    assert project_ref({"supabaseUrl": f"https://{REF}.supabase.co", "supabaseProject": "x"}) == REF
    assert project_ref({**own, "supabaseProject": REF}) == REF
    with pytest.raises(CommandFailed, match="does not show"):
        project_ref(own)
