"""The pages of an app."""

from pathlib import Path

import pytest

from minutehand.app import App
from minutehand.config import ConfigurationError


def test_pages_of_an_older_version_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app with pages for version 0.5.1 raises an error, and its menu does not disappear."""
    pages = tmp_path / "old_pages" / "console"
    pages.mkdir(parents=True)
    (pages.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert App("old_pages").manifest is None
    (pages / "manifest.js").touch()
    with pytest.raises(ConfigurationError, match=r"manifest\.json"):
        App("old_pages").manifest  # noqa: B018
