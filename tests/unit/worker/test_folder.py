"""A job's folder: gone with the job, with its worker's end, and never under somebody's hands."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from minutehand.worker.folder import Folder, remove_orphans

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import signal, sys
from pathlib import Path
from minutehand.worker.folder import Folder
with Folder(Path(sys.argv[1])) as folder:
    (folder.path / "video").write_bytes(b"x" * 1000)
    print(folder.path, flush=True)
    signal.pause()
"""


def test_a_folder_goes_with_its_job(tmp_path: Path) -> None:
    """However it ends; the one beside it stays."""
    with Folder(tmp_path) as one, Folder(tmp_path) as other:
        (one.path / "video").write_bytes(b"x")
        remove_orphans(tmp_path)
        assert (one.path / "video").exists()
        assert other.path.exists()

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_worker_left_goes_with_the_next_job(tmp_path: Path) -> None:
    """A disk of 512 MB is full after one of them; while it lives nothing of its is touched."""
    foreign = tmp_path / "minutehand-job-link"
    foreign.symlink_to(ROOT)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        left = Path(worker.stdout.readline().strip())
        with Folder(tmp_path):
            assert (left / "video").exists()
        worker.send_signal(signal.SIGKILL)
    assert (left / "video").exists()

    with Folder(tmp_path) as mine:
        assert not left.exists()
        assert mine.path.exists()

    assert ROOT.exists()
    assert list(tmp_path.iterdir()) == [foreign]
