"""`minutehand chat …`: sessions in a terminal."""

from minutehand_apps.chat.verbs.sessions import app

#: What to do next, by the API's stable words.
FIXES = {"session_not_found": "`minutehand chat ls` lists yours; another workspace's: --workspace"}

__all__ = ["FIXES", "app"]
