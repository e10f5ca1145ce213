#!/bin/sh
# Makes .venv and installs the locked Python packages into it; run by make when a lock changed.
# Usage: bootstrap.sh <python>
set -eu
python=$1

if ! command -v "$python" >/dev/null 2>&1; then
  echo "Minutehand needs Python 3.11 or newer, and '$python' is not there." >&2
  echo "Install it, or name another one: make PYTHON=python3.12 …" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "Minutehand needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1)." >&2
  echo "Name another one: make PYTHON=python3.12 …" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  echo "This Python comes without venv. On Debian or Ubuntu: apt-get install python3-venv" >&2
  exit 1
fi

# a moved checkout leaves a .venv whose scripts point nowhere
if ! .venv/bin/python -c '' >/dev/null 2>&1 || ! .venv/bin/pip --version >/dev/null 2>&1; then
  echo "Minutehand: making .venv with $("$python" --version 2>&1)"
  "$python" -m venv --clear .venv
fi
echo "Minutehand: installing the Python packages (the first time about 500 MB)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
  --require-hashes -r infra/bootstrap/bootstrap.lock
# the machine's own certificates where there are any: a company's proxy may sign with its own
certificates=""
for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
  [ -f "$bundle" ] && certificates="--system-certs"
done
quiet="--quiet"
[ -t 2 ] && quiet="" # on a terminal its progress bars are worth seeing
# shellcheck disable=SC2086 # empty or one word each
.venv/bin/uv pip sync $quiet $certificates --require-hashes --python .venv/bin/python requirements-dev.lock

# the checkout is the package: what is imported is what is shipped, and an edit needs no install
.venv/bin/python -c '
import pathlib, sysconfig
link = pathlib.Path(sysconfig.get_path("purelib"), "minutehand-checkout.pth")
link.write_text(str(pathlib.Path("shared").resolve()) + "\n", "utf-8")
'
