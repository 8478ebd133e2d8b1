# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this file read what it sets
# What the scripts of this folder share: their flags, gcloud, and the state of a TPU.
# Keeps to bash 3.2, the one of macOS.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name='' zone='' project='' type='' runtime='' spot='' dry_run=''
revision=HEAD mount='' logs=rmas-logs max_restarts=20 pause=60 poll=30 state=''
command=()

# The table of TPU generations: type and runtime version.
runtime_of() {
  case $1 in
    v4-[0-9]*) echo tpu-ubuntu2204-base ;;
    v5litepod-[0-9]*) echo v2-alpha-tpuv5-lite ;;
    v5p-[0-9]*) echo v2-alpha-tpuv5 ;;
    v6e-[0-9]*) echo v2-alpha-tpuv6e ;;
    *) return 1 ;;
  esac
}

fail() {
  echo "error: $1" >&2
  exit 2
}

# parse "FLAG! FLAG ..." ARG...: sets the variable of each flag. Those with ! must be given; -- in
# the list means that a command follows it.
parse() {
  local known=" $1 " arg flag value
  shift
  while (($#)); do
    arg=$1
    shift
    case $arg in
      --help | -h)
        awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
        exit
        ;;
      --)
        [[ $known == *" -- "* ]] || fail "no command is wanted here (see --help)"
        command=("$@")
        break
        ;;
      --spot | --dry-run) flag=${arg#--} value=yes ;;
      --spot=* | --dry-run=*) fail "${arg%%=*} takes no value" ;;
      --*=*) flag=${arg%%=*} flag=${flag#--} value=${arg#*=} ;;
      *) fail "$arg: flags are written --flag=value (see --help)" ;;
    esac
    [[ $known == *" $flag "* || $known == *" $flag! "* ]] || fail "--$flag: no such flag (see --help)"
    [[ $value ]] || fail "--$flag is empty"
    printf -v "${flag//-/_}" %s "$value"
  done
  for flag in $known; do
    arg=${flag%!}
    [[ $flag == "$arg" || ${!arg} ]] || fail "--$arg=... is missing (see --help)"
  done
  [[ $known != *" -- "* || ${#command[@]} -gt 0 ]] || fail "no command after -- (see --help)"
  [[ $poll$pause$max_restarts =~ ^[0-9]+$ ]] || fail "--poll, --pause, --max-restarts are whole numbers"
  if [[ $type ]]; then
    runtime=$(runtime_of "$type") || fail "--type=$type is none of v4-N, v5litepod-N, v5p-N, v6e-N"
  fi
  [[ $dry_run ]] || command -v gcloud >/dev/null || fail "gcloud is not on PATH"
}

# Any words as the same words of a POSIX shell.
quote() {
  local arg quoted='' mark="'" escaped="'\\''"
  for arg; do
    arg=${arg//"$mark"/"$escaped"}
    quoted+=" '$arg'"
  done
  printf %s "${quoted# }"
}

# tpus ARG...: gcloud compute tpus ARG... for this zone and project; a dry run prints it.
tpus() {
  set -- compute tpus "$@" "--zone=$zone" "--project=$project"
  if [[ $dry_run ]]; then
    printf gcloud
    printf ' %q' "$@"
    echo
  else
    gcloud "$@"
  fi
}

# Without the options ssh would wait for hours for the answer of a TPU that was taken away.
on_workers() {
  tpus tpu-vm ssh "$name" --worker=all --quiet --ssh-flag=-oConnectTimeout=20 \
    --ssh-flag=-oServerAliveInterval=30 "--command=$1"
}

# describe KIND FIELD: sets `state`; UNKNOWN if gcloud cannot tell.
describe() {
  local errors
  if [[ $dry_run ]]; then
    tpus "$1" describe "$name" "--format=value($2)"
    return
  fi
  errors=$(mktemp)
  if state=$(tpus "$1" describe "$name" "--format=value($2)" 2>"$errors"); then
    state=${state:-UNKNOWN}
  elif missing "$errors"; then
    state=MISSING
  else
    state=UNKNOWN
    cat "$errors" >&2
  fi
  rm -f "$errors"
}

missing() { grep -q -e NOT_FOUND -e 'was not found' "$1"; }

# Waits until the TPU can be used (READY) or will not come by itself: sets `state`. That is the
# request's state and, once it is granted, the TPU's own.
settle() {
  while :; do
    describe queued-resources state.state
    if [[ $dry_run || $state == ACTIVE ]]; then describe tpu-vm state; fi
    case ${state:-READY} in
      READY | MISSING | FAILED | SUSPENDED | PREEMPTED | TERMINATED) return ;;
    esac
    sleep "$poll"
  done
}
