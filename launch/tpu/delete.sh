#!/usr/bin/env bash
# Deletes a TPU and its request, without asking; nothing to delete is not an error.
#
#   delete.sh --name=NAME --zone=ZONE --project=PROJECT [--dry-run]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse "name! zone! project! dry-run" "$@"

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
status=0
tpus queued-resources delete "$name" --force --quiet 2>"$errors" || status=$?
if ((status)) && missing "$errors"; then
  echo "$name: there is none"
  exit
fi
cat "$errors" >&2
exit "$status"
