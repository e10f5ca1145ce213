"""Recordings from elsewhere: allowed hosts, checked redirects, bounded size, hosts in trouble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from minutehand.apps.training.errors import StageError
from minutehand.apps.training.remote import fetch_remote, refuse_address
from minutehand.apps.training.settings import TrainingSettings
from tests.support.misbehaving import Fault, MisbehavingServer

SETTINGS = TrainingSettings(source_hosts=("media.example.com", "*.cdn.example.com"))
URL = "https://media.example.com/a.mp3"
