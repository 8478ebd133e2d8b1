"""What setup.sh and run.sh start on the workers of a TPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from support.stand_ins import AT, RUN, TPU, WEIRD, StandIns


@pytest.fixture
def cloud(tmp_path):
    return StandIns(tmp_path)


@pytest.mark.parametrize("mount", [[], ["gs://bucket"]])
def test_install(cloud, mount):
    """On a machine where all that it calls is a stand-in."""
    here = cloud.folder / "rmas"
    shutil.copytree(TPU, here / "launch" / "tpu")
    for path in ("bin/python3", ".local/bin/uv", "rmas/.venv/bin/pip", "bin/sudo", "bin/gcsfuse"):
        (cloud.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (cloud.folder / path).write_text(
            f'#!/bin/sh\necho "$(basename "$0") $*" >> {cloud.folder}/installed\n'
        )
        (cloud.folder / path).chmod(0o755)
    done = cloud(here / "launch" / "tpu" / "install.sh", *mount)
    assert (done.returncode, done.stderr) == (0, "")
    links = "https://storage.googleapis.com/jax-releases/libtpu_releases.html"
    mounted = [
        "sudo mkdir -p /shared",
        f"sudo chown {os.getuid()} /shared",
        "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 bucket /shared",
    ]
    assert (cloud.folder / "installed").read_text().splitlines() == [
        *(mounted if mount else []),
        "python3 -m pip install -q --user uv",
        "uv venv -q --seed --allow-existing --python 3.12 .venv",
        f"pip install -q -e . jax[tpu] -f {links}",
    ]


def worker(cloud, command, **env):
    """A worker's shell, which does what gcloud would have told it."""
    target = cloud.folder / "rmas" / "launch" / "tpu"
    if not target.exists():
        shutil.copytree(TPU, target)
    state = str(cloud.folder / "state")
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=cloud.folder,
        env={"PATH": "/usr/bin:/bin", "RMAS_STATE": state, "RMAS_GRACE": "10", **env},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def recorded(cloud, *command):
    """What run.sh sends to the workers for a command."""
    cloud.answer()
    assert cloud("tpu/run.sh", *AT, "--", *command).returncode == 0
    return cloud.commands(RUN)[0]


def test_arguments_reach_the_program_unharmed(cloud):
    show = [sys.executable, "-ISc", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    process = worker(cloud, recorded(cloud, *show, *WEIRD))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out) == WEIRD
    (log,) = (cloud.folder / "rmas-logs").iterdir()
    assert json.loads(log.read_text()) == WEIRD


def test_the_status_of_the_program_comes_back(cloud):
    process = worker(cloud, recorded(cloud, "sh", "-c", "echo out; echo err >&2; exit 3"))
    assert process.communicate(timeout=30) == ("out\nerr\n", "")
    assert process.returncode == 3


def until(path):
    """Shell that waits for a file, not for ever."""
    return f"i=0; while [ ! -e {path} ] && [ $i -lt 400 ]; do sleep 0.05; i=$((i+1)); done"


def wait_for(path):
    for _ in range(200):
        if path.exists() and path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


def test_a_repeated_connection_follows_the_run(cloud):
    """gcloud repeats a command whose connection broke: that must not start it twice."""
    started, go = cloud.folder / "started", cloud.folder / "go"
    program = f"echo once >> {started}; {until(go)}; exit 7"
    command = recorded(cloud, "sh", "-c", program)
    first = worker(cloud, command)
    wait_for(started)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    second = worker(cloud, command)
    time.sleep(0.3)
    go.write_text("")
    second.communicate(timeout=30)
    assert second.returncode == 7
    assert started.read_text() == "once\n"
    third = worker(cloud, command)  # and after its end, too
    third.communicate(timeout=30)
    assert third.returncode == 7


def test_another_run_ends_the_earlier_one(cloud):
    started, saved = cloud.folder / "started", cloud.folder / "saved"
    program = f"trap 'echo saved > {saved}; exit 143' TERM; echo 1 > {started}; {until(saved)}"
    first = worker(cloud, recorded(cloud, "sh", "-c", program))
    wait_for(started)
    second = worker(cloud, recorded(cloud, "cat", str(saved)))
    out, _ = second.communicate(timeout=30)
    assert (second.returncode, out) == (0, "saved\n")
    _, err = first.communicate(timeout=30)
    assert (first.returncode, err) == (143, "")
