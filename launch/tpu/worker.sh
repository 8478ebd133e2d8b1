#!/usr/bin/env bash
# Runs a command on one worker of a TPU; run.sh starts it through ssh.
#
#   worker.sh RUN LOGS COMMAND...
#
# gcloud repeats its command when a connection breaks. So the command runs detached from
# the connection, and a second call with the same RUN only follows it. Another RUN ends the one
# before, since a TPU serves one process at a time.
set -euo pipefail
if (($# < 3)); then
  echo "error: worker.sh takes RUN LOGS COMMAND..." >&2
  exit 2
fi

run=$1 logs=$2
shift 2
state=${RMAS_STATE:-/dev/shm/rmas-$UID} # a reboot ends processes and forgets them here
grace=${RMAS_GRACE:-180}                # seconds to save a checkpoint in
mkdir -p "$state" "$logs"
log=$(cd "$logs" && pwd)/$(hostname)-$run.log

mine=$state/$run

# stop FOLDER: ends the run of a folder, if it is there.
stop() {
  local pid second
  [[ ! -e $1/status ]] || return 0
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill -TERM -- "-$pid" 2>/dev/null || return 0
  for ((second = 0; second < grace; second++)); do
    [[ ! -e $1/status ]] || break
    sleep 1
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
}

exec 9>"$state/lock"
flock 9
lines=20
if [[ ! -e $mine/pid ]]; then
  lines=+1
  stop "$(cat "$state/newest" 2>/dev/null || echo "$state/none")"
  mkdir -p "$mine"
  cd "$(dirname "$0")/../.."
  export PATH=$PWD/.venv/bin:$PATH PYTHONUNBUFFERED=1
  : >"$log" # before tail looks for it
  # The trap keeps this shell, but not the command, alive until the status is written.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM; "$@"; echo $? >"$0.new"; mv "$0.new" "$0"' "$mine/status" "$@" \
    </dev/null >"$log" 2>&1 9>&- &
  echo $! >"$mine/pid"
  disown # bash would report a killed job on stderr
  echo "$mine" >"$state/newest"
fi
exec 9>&-

tail -n "$lines" -s 0.5 -f --pid="$(cat "$mine/pid")" "$log"
exit "$(cat "$mine/status" 2>/dev/null || echo 137)"
