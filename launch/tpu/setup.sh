#!/usr/bin/env bash
# Installs the project in ~/rmas on all workers of a TPU; may be repeated.
#
#   setup.sh --name=NAME --zone=ZONE --project=PROJECT [--revision=HEAD] [--mount=WHAT] [--dry-run]
#
# Copies the committed files of a --revision of this repository. --mount=gs://BUCKET or
# --mount=HOST:/PATH (NFS, Filestore) is mounted as /shared on every worker first.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
parse "name! zone! project! revision mount dry-run" "$@"

mount=${mount%/}
case $mount in
  '' | gs://?* | [!/]*:/?*) ;;
  *) fail "--mount=$mount is neither gs://BUCKET nor HOST:/PATH" ;;
esac
[[ $mount != gs://*/* ]] || fail "--mount=$mount: only a whole bucket can be mounted"
root=$(cd "$here/../.." && pwd)
commit=$(git -C "$root" rev-parse --verify --quiet "$revision^{commit}") ||
  fail "--revision=$revision is not a commit of $root"

archive=rmas-${commit:0:12}.tar.gz
folder=.
if [[ ! $dry_run ]]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  git -C "$root" archive --format=tar.gz "--output=$folder/$archive" "$commit"
fi

tpus tpu-vm scp "$folder/$archive" "$name:" --worker=all --quiet
on_workers "mkdir -p rmas && tar -xzf $archive -C rmas && bash rmas/launch/tpu/install.sh${mount:+ $(quote "$mount")}"
