#!/bin/sh
# Creates .venv and installs the locked Python packages. make runs it after a lock has changed.
# Usage: bootstrap.sh <python>
set -eu
python=$1

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Minutehand needs Python 3.11 or newer; '$python' is: $("$python" --version 2>&1)" >&2
  echo "Install it, or name another one: make PYTHON=python3.12 …" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  echo "This Python comes without venv. On Debian or Ubuntu: apt-get install python3-venv" >&2
  exit 1
fi

# after a checkout was moved, the scripts of .venv have a wrong path
if ! .venv/bin/python -c '' >/dev/null 2>&1 || ! .venv/bin/pip --version >/dev/null 2>&1; then
  echo "Minutehand: making .venv with $("$python" --version 2>&1)"
  "$python" -m venv --clear .venv
fi
echo "Minutehand: installing the Python packages (the first time about 500 MB)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
  --require-hashes -r infra/bootstrap/bootstrap.lock
# use the machine's certificates if it has any, because a company's proxy may have its own
certificates=""
for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
  [ -f "$bundle" ] && certificates="--system-certs"
done
quiet="--quiet"
[ -t 2 ] && quiet="" # show progress bars on a terminal
# shellcheck disable=SC2086 # empty or one word each
.venv/bin/uv pip sync $quiet $certificates --require-hashes --python .venv/bin/python requirements-dev.lock

# import the package from the checkout, so that an edit needs no install
.venv/bin/python -c '
import pathlib, sysconfig
link = pathlib.Path(sysconfig.get_path("purelib"), "minutehand-checkout.pth")
link.write_text(str(pathlib.Path("shared").resolve()) + "\n", "utf-8")
'
