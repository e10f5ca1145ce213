"""Where a benchmark's own processes find the checkout."""

import os

from minutehand.resources import IN_CHECKOUT, PACKAGE

ROOT = PACKAGE.parents[1]
PYTHONPATH = os.pathsep.join([str(PACKAGE.parent), str(ROOT)])
assert (ROOT / IN_CHECKOUT["migrations"]).is_dir(), "benchmarks run from a checkout"
