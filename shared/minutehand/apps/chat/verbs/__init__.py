"""`minutehand chat …`: conversations in a terminal."""

from minutehand.apps.chat.verbs.conversations import app

#: What to do next, by the API's stable words.
FIXES = {
    "conversation_not_found": "`minutehand chat ls` lists yours; another workspace's: --workspace",
}

__all__ = ["FIXES", "app"]
