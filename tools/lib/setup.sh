# SPDX-License-Identifier: Apache-2.0
# Sourced by every shell script that needs a Python: finds one, keeps an environment in step with pyproject.toml.
# shellcheck shell=bash

# These environments are the checkout's own: without byte code each process that is started compiles anew what it
# imports, half of the service's start.
unset PYTHONDONTWRITEBYTECODE

fail() { printf '%s: %s\n' "$(basename "$0")" "$1" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      # Not the python of an active environment: making that one anew would clear it under its own feet.
      "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
      return
    fi
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
  done
  fail "no Python 3.11 or newer on PATH; on Debian: apt-get install python3 python3-venv"
}

# borrows_pip PYTHON: whether the pip of this Python installs into other environments (22.3 and later).
borrows_pip() {
  "$1" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3))' >/dev/null 2>&1
}

# What a bridge's outputs and its packaging need, and its demo does not: half of the time until there is something to see.
OUTPUTS='opentelemetry-proto|prometheus-client|protobuf|psycopg|psycopg-binary|setuptools|sqlalchemy'

# fetch_uv FOLDER LOCK PIP...: uv, by version and digest, into FOLDER. Of a hundred packages pip reads each file of each
# release before it takes the one that the lock names: most of a set-up. uv does not know pip's configuration: whoever has
# set an index or a proxy there is asked by pip alone.
fetch_uv() {
  local folder=$1 lock=$2
  shift 2
  if "$@" config list 2>/dev/null | grep -qE '\.(index-url|no-index|proxy|client-cert)='; then return 1; fi
  "$@" install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes --target "$folder" \
    --requirement "$lock"
}

# install_into ROOT EXTRA LOCK PIP...: the package as it lies in ROOT, and what it needs: by version and digest where LOCK is a
# file. What is never imported is compiled to no byte code: of some hundred modules, most. A bridge is waited for by
# somebody who looks at it for the first time: it runs from the checkout, and nothing of that is installed, nor uv for ten packages.
install_into() {
  local root=$1 extra=$2 lock=$3
  shift 3
  local pip=("$@" install --quiet --disable-pip-version-check)
  if [[ $extra = bridge* ]]; then
    "${pip[@]}" --no-compile --no-deps --require-hashes --requirement "$lock"
    return
  fi
  if [ ! -f "$lock" ]; then
    "${pip[@]}" --editable "${root}[$extra]"
    return
  fi
  local held=(--no-deps --require-hashes --requirement "$lock") itself=(--no-deps --no-build-isolation --editable "$root")
  local folder status=0
  folder=$(mktemp -d)
  local uv=("$folder/bin/uv" pip install --quiet --python "$BIN/python")
  if ! { fetch_uv "$folder" "$root/tools/lib/locks/uv.txt" "$@" && "${uv[@]}" "${held[@]}" && "${uv[@]}" "${itself[@]}"; }; then
    "${pip[@]}" --no-compile "${held[@]}" && "${pip[@]}" "${itself[@]}" || status=$?
  fi
  rm -rf "$folder"
  return "$status"
}

# set_up ROOT [NAME EXTRA]: the environment ROOT/NAME (.venv-test) with the extra EXTRA (dev), and with agent and tools as
# they are in ROOT. Sets BIN, the folder of its commands. Quick when nothing changed.
set_up() {
  local root=$1 venv="$1/${2:-.venv-test}" extra=${3:-dev} python stamp wanted log lock pip
  lock="$root/tools/lib/locks/${extra%-demo}.txt"
  python=$(find_python)
  stamp="$venv/.stamp"
  wanted=$("$python" - "$root/pyproject.toml" "$root/tools/lib/setup.sh" "$lock" <<'PY'
import hashlib, pathlib, sys
made_by = b"".join(path.read_bytes() for path in map(pathlib.Path, sys.argv[1:]) if path.exists())
print(sys.version.split()[0], sys.executable, hashlib.sha256(made_by).hexdigest())
PY
  )
  BIN="$venv/bin"
  pip=("$BIN/python" -m pip)
  if [ -x "$BIN/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  if declare -F before_set_up >/dev/null; then before_set_up "$python"; fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "this Python cannot make environments; on Debian: apt-get install python3-venv"
  [ ! -L "$venv" ] || fail "$venv is a link, and what it leads to was made for another checkout: remove the link"
  echo "setting up $venv with $python, once: first the environment itself"
  # A pip of its own takes some seconds, of a bridge's demo a third of the time; tools/arm64 asks for the one of the bench.
  if [ "$extra" != bench ] && borrows_pip "$python"; then
    pip=("$python" -m pip --python "$BIN/python")
    "$python" -m venv --clear --without-pip "$venv" || fail "the environment $venv cannot be made"
  else
    "$python" -m venv --clear "$venv" || fail "the environment $venv cannot be made"
  fi
  log="$venv/install.log"
  if [ "$extra" = bridge-demo ]; then # a package's lines begin with its name, and end with its last digest
    awk -v left_out="^($OUTPUTS)==" '/^[a-z]/ { skip = $0 ~ left_out } !skip' "$lock" >"$venv/lock.txt"
    lock="$venv/lock.txt"
  fi
  echo "after ${SECONDS} s: fetching and installing what it needs"
  install_into "$root" "$extra" "$lock" "${pip[@]}" >"$log" 2>&1 ||
    fail "packages cannot be installed: $(grep -i '^error' "$log" | tail -n 1); see $log"
  printf '%s\n' "$root" >"$("$BIN/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/postern-tools.pth"
  printf '%s\n' "$wanted" >"$stamp"
  echo "after ${SECONDS} s: set up"
}
