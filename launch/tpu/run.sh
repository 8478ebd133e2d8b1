#!/usr/bin/env bash
# Runs a command on all workers of a TPU, in ~/rmas with its environment, and waits for its end.
#
#   run.sh --name=NAME --zone=ZONE --project=PROJECT [--logs=rmas-logs] [--dry-run] -- COMMAND...
#
# Each worker writes LOGS/HOST-TIME.log (LOGS counts from its home) and shows it here. The exit
# status is the first worker's that failed. A run that is still there is stopped (SIGTERM) first.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse "name! zone! project! logs dry-run --" "$@"

run=$(date +%Y%m%d-%H%M%S)-$$
on_workers "bash rmas/launch/tpu/worker.sh $(quote "$run" "$logs" "${command[@]}")"
