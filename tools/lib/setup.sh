# SPDX-License-Identifier: Apache-2.0
# Sourced by tools/test and tools/check: finds a Python, keeps .venv-test in step with pyproject.toml.
# Sets BIN, the folder of the environment's commands. Quick when nothing changed.
# shellcheck shell=bash

fail() { printf '%s: %s\n' "$(basename "$0")" "$1" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
  done
  fail "no Python 3.11 or newer on PATH; on Debian: apt-get install python3 python3-venv"
}

set_up() {
  local root=$1 python venv stamp wanted
  python=$(find_python)
  venv="$root/.venv-test" stamp="$root/.venv-test/.stamp"
  wanted=$("$python" - "$root/pyproject.toml" <<'PY'
import hashlib, pathlib, sys
print(sys.version.split()[0], sys.executable, hashlib.sha256(pathlib.Path(sys.argv[1]).read_bytes()).hexdigest())
PY
  )
  BIN="$venv/bin"
  if [ -x "$BIN/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "this Python cannot make environments; on Debian: apt-get install python3-venv"
  echo "setting up $venv with $python"
  "$python" -m venv --clear "$venv"
  "$BIN/python" -m pip install --quiet --disable-pip-version-check --editable "$root[dev]"
  printf '%s\n' "$wanted" >"$stamp"
}
