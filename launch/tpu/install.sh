#!/usr/bin/env bash
# Installs the project on one worker of a TPU; setup.sh starts it through ssh.
#
#   install.sh [gs://BUCKET | HOST:/PATH]     what to mount as /shared
set -euo pipefail
cd "$(dirname "$0")/../.."
what=${1-}

# A new machine may be updating itself.
apt_install() {
  sudo apt-get update -qq
  sudo apt-get -o DPkg::Lock::Timeout=600 install -y -qq "$1" >/dev/null
}

mount_bucket() {
  local source=https://packages.cloud.google.com/apt keys=/usr/share/keyrings/cloud.google.asc
  if ! command -v gcsfuse >/dev/null; then
    curl -fsS "$source/doc/apt-key.gpg" | sudo tee "$keys" >/dev/null
    echo "deb [signed-by=$keys] $source gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    apt_install gcsfuse
  fi
  sudo mkdir -p /shared
  sudo chown "$(id -u)" /shared
  # No caching of names: a process must see at once what another one wrote.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$1" /shared
}

mount_nfs() {
  apt_install nfs-common
  sudo mkdir -p /shared
  sudo mount -t nfs "$1" /shared
  sudo chmod 1777 /shared # the workers may know their user by different numbers
}

if [[ $what ]] && ! mountpoint -q /shared; then
  case $what in
    gs://*) mount_bucket "${what#gs://}" ;;
    *) mount_nfs "$what" ;;
  esac
fi

# The images have Python 3.10; uv brings a newer one.
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv
~/.local/bin/uv venv -q --seed --allow-existing --python 3.12 .venv
.venv/bin/pip install -q -e . "jax[tpu]" \
  -f https://storage.googleapis.com/jax-releases/libtpu_releases.html
