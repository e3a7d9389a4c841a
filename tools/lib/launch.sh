# SPDX-License-Identifier: Apache-2.0
# Sourced by the programs of tools/ that are written in Python. Sets root, the folder of the checkout.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/lib/setup.sh
. "$root/tools/lib/setup.sh"

# What the function below asks, once it is clear that a set-up, of minutes, has to come first: what can be refused, or
# told without it, is told now.
before_set_up() {
  local python=$1 status=0
  "$python" -P "$root/tools/lib/refused.py" "$(basename "$0")" "${asked[@]}" >&3 || status=$?
  case $status in
    0) ;;
    64) exit 0 ;; # all was told
    *) exit "$status" ;;
  esac
}

# launch MODULE ENVIRONMENT EXTRA ARGUMENT...: runs tools.lib.MODULE where the caller is, with the Python of ENVIRONMENT,
# which gets made with the extra EXTRA when it is missing or pyproject.toml has changed. Does not return.
launch() {
  local module=$1 environment=$2 extra=$3
  shift 3
  asked=("$module" "$@")
  set_up "$root" "$environment" "$extra" 3>&1 >&2
  exec "$BIN/python" -P -m tools.lib.guarded "$module" "$@" # -P: no import from the folder where the caller happens to be
}
