"""Building blocks for the commands of the program `minutehand` and of apps."""

from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.inputs import loads, parse_object, read_text
from minutehand.terminal.options import EnvFile, Json, Token, connected, verb, workspace_verb
from minutehand.terminal.output import Output

__all__ = [
    "CommandFailed",
    "Connection",
    "EnvFile",
    "Json",
    "Output",
    "Token",
    "connected",
    "loads",
    "parse_object",
    "read_text",
    "verb",
    "workspace_verb",
]
