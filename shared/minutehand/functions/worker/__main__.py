"""A worker for your own host. The database wakes the worker when jobs arrive, and every minute."""

import os
import sys

from minutehand.functions.worker.app import load, run_worker
from minutehand.functions.worker.process import serve_worker

if __name__ == "__main__":
    sys.exit(serve_worker(os.environ, run_worker, load))
