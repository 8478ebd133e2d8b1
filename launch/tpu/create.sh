#!/usr/bin/env bash
# Asks for a TPU and waits until it is there.
#
#   create.sh --name=NAME --zone=ZONE --project=PROJECT --type=TYPE [--spot] [--poll=30] [--dry-run]
#
# TYPE is v4-N, v5litepod-N, v5p-N or v6e-N. A --spot TPU costs less and may be taken away at any
# time. --poll: seconds between two looks at it. --dry-run prints the gcloud commands instead.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse "name! zone! project! type! spot poll dry-run" "$@"

tpus queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
  "--runtime-version=$runtime" ${spot:+--spot}
settle
if [[ ! $dry_run && $state != READY ]]; then
  echo "error: $name is $state" >&2
  exit 1
fi
