#!/usr/bin/env bash
# Keeps a command running on a TPU until it exits with status 0.
#
#   babysit.sh --name=NAME --zone=ZONE --project=PROJECT --type=TYPE [--spot] [--revision=HEAD]
#       [--mount=WHAT] [--logs=rmas-logs] [--max-restarts=20] [--pause=60] [--poll=30] [--dry-run]
#       -- COMMAND...
#
# A TPU that is missing or was taken away is deleted, created again and set up; then the same
# command runs again, and goes on from its newest checkpoint. Status 2 (bad input) ends it at once.
# After any other it waits --pause seconds and tries again, --max-restarts times at most. Ctrl-C
# ends this script, not the run. The flags are those of create.sh, setup.sh and run.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse "name! zone! project! type! spot revision mount logs max-restarts pause poll dry-run --" "$@"
trap 'exit 130' INT

tpu=("--name=$name" "--zone=$zone" "--project=$project" ${dry_run:+--dry-run})
is_set_up=''

tell() { echo "babysit: $1" >&2; }

attempt() {
  settle
  if [[ $dry_run || $state != READY ]]; then
    [[ $dry_run ]] || tell "$name is $state; creating it"
    is_set_up=''
    "$here/delete.sh" "${tpu[@]}" || return
    "$here/create.sh" "${tpu[@]}" "--type=$type" "--poll=$poll" ${spot:+--spot} || return
  fi
  if [[ ! $is_set_up ]]; then
    "$here/setup.sh" "${tpu[@]}" "--revision=$revision" ${mount:+"--mount=$mount"} || return
    is_set_up=yes
  fi
  "$here/run.sh" "${tpu[@]}" "--logs=$logs" -- "${command[@]}"
}

for ((restart = 0; ; restart++)); do
  status=0
  attempt || status=$?
  case $status in
    0) exit 0 ;;
    2)
      tell "status 2: the input is wrong, and repeating would not help"
      exit 2
      ;;
  esac
  if ((restart == max_restarts)); then
    tell "status $status; giving up after $restart restarts"
    exit "$status"
  fi
  tell "status $status; restart $((restart + 1)) of $max_restarts in $pause s"
  sleep "$pause"
done
