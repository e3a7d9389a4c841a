# SPDX-License-Identifier: Apache-2.0
# Sourced by the programs of tools/ that are written in Python. Sets root, the folder of the checkout.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/lib/setup.sh
. "$root/tools/lib/setup.sh"

# launch MODULE ENVIRONMENT EXTRA ARGUMENT...: runs tools.lib.MODULE where the caller is, with the Python of ENVIRONMENT,
# which gets made with the extra EXTRA when it is missing or pyproject.toml has changed. Does not return.
launch() {
  local module=$1 environment=$2 extra=$3
  shift 3
  set_up "$root" "$environment" "$extra" >&2
  exec "$BIN/python" -P -m tools.lib.guarded "$module" "$@" # -P: no import from the folder where the caller happens to be
}
