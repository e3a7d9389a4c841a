#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the locks anew, with the newest releases that pyproject.toml allows: every package of the environments that
# build and judge this program, by version and digest. Read the difference before you commit it.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
# shellcheck source=tools/lib/setup.sh
. "$root/tools/lib/setup.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$(find_python)" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
sed -n 's/^requires = \["\(.*\)"\]$/\1/p' "$root/pyproject.toml" >"$folder/build.in" # what builds the package itself
# uv ignores that a release is for older Pythons alone; ai-edge-litert asks for this one on every Python.
echo 'backports-strenum<1.3' >"$folder/constraints.in"
# What a bridge needs no part of: the unit's networks and pictures.
without=(ai-edge-litert backports-strenum flatbuffers ml-dtypes numpy pillow tqdm)
echo uv >"$folder/uv.in" # which installs the others
for lock in "$root"/tools/lib/locks/*.txt; do
  extra=$(basename "$lock" .txt)
  asked=(--extra "$extra" "$root/pyproject.toml" "$folder/build.in")
  [ "$extra" != uv ] || asked=("$folder/uv.in")
  left_out=()
  [ "$extra" != bridge ] || left_out=("${without[@]/#/--no-emit-package=}")
  "$folder/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    "${left_out[@]}" --constraint "$folder/constraints.in" "${asked[@]}" --output-file "$folder/$extra.txt"
  { printf '# SPDX-License-Identifier: Apache-2.0\n# Written by tools/lib/locks/renew.sh.\n'; cat "$folder/$extra.txt"; } >"$lock"
done
