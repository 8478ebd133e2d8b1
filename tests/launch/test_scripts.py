"""What the scripts of `launch/tpu` call, print and refuse."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from support.stand_ins import AT, LAUNCH, TPU, TYPE, WEIRD, StandIns, gcloud

SSH = ["--quiet", "--ssh-flag=-oConnectTimeout=20", "--ssh-flag=-oServerAliveInterval=30"]


@pytest.fixture
def cloud(tmp_path):
    return StandIns(tmp_path)


@pytest.mark.parametrize(
    ("kind", "runtime", "spot"),
    [
        ("v4-32", "tpu-ubuntu2204-base", []),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", ["--spot"]),
        ("v5p-8", "v2-alpha-tpuv5", []),
        ("v6e-16", "v2-alpha-tpuv6e", ["--spot"]),
    ],
)
def test_create(cloud, kind, runtime, spot):
    cloud.answer(request=["WAITING_FOR_RESOURCES", "ACTIVE"], node=["CREATING", "READY"])
    done = cloud("tpu/create.sh", *AT, f"--type={kind}", "--poll=0", *spot)
    assert (done.returncode, done.stderr) == (0, "")
    assert cloud.calls[0]["args"] == gcloud(
        *("queued-resources", "create", "pod", "--node-id=pod", f"--accelerator-type={kind}"),
        *(f"--runtime-version={runtime}", *spot),
    )
    request = gcloud("queued-resources", "describe", "pod", "--format=value(state.state)")
    node = gcloud("tpu-vm", "describe", "pod", "--format=value(state)")
    assert cloud.args[1:] == [request, request, node, request, node]


def test_create_tells_what_failed(cloud):
    cloud.answer(request=["FAILED"])
    done = cloud("tpu/create.sh", *AT, TYPE)
    assert (done.returncode, done.stderr) == (1, "error: pod is FAILED\n")


def test_delete_twice(cloud):
    cloud.answer(delete=[0, "MISSING"])
    first, second = (cloud("tpu/delete.sh", *AT) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == "pod: there is none\n"
    command = gcloud("queued-resources", "delete", "pod", "--force", "--quiet")
    assert cloud.args == [command] * 2


def test_delete_that_fails(cloud):
    cloud.answer(delete=[1])
    assert cloud("tpu/delete.sh", *AT).returncode == 1


@pytest.mark.parametrize("mount", [None, "gs://bucket", "10.0.0.2:/vol"])
def test_setup(cloud, mount):
    if not mount:
        cloud.git.unlink()
    done = cloud("tpu/setup.sh", *AT, *([f"--mount={mount}"] if mount else []))
    assert (done.returncode, done.stderr) == (0, "")
    copy, install = cloud.args
    source = Path(copy.pop(4))
    assert copy == gcloud("tpu-vm", "scp", "pod:", "--worker=all", "--quiet")
    assert re.fullmatch(r"rmas-[0-9a-f]{12}\.tar\.gz", source.name)
    assert not source.parent.exists()
    words = f"bash rmas/launch/tpu/install.sh{f' {mount!r}' if mount else ''}"
    command = f"--command=mkdir -p rmas && tar -xzf {source.name} -C rmas && {words}"
    assert install == gcloud("tpu-vm", "ssh", "pod", "--worker=all", *SSH, command)


def test_run(cloud):
    cloud.answer(run=[143])
    done = cloud("tpu/run.sh", *AT, "--logs=/nfs/my logs", "--", "python", "-m", "x")
    assert (done.returncode, done.stdout) == (143, "")
    (args,) = cloud.args
    command = args.pop(-3)
    assert args == gcloud("tpu-vm", "ssh", "pod", "--worker=all", *SSH)
    words = shlex.split(command.removeprefix("--command="))
    assert re.fullmatch(r"\d{8}-\d{6}-\d+", words.pop(2))
    assert words == ["bash", "rmas/launch/tpu/worker.sh", "/nfs/my logs", "python", "-m", "x"]


SCRIPTS = {
    "create": [TYPE, "--spot"],
    "setup": ["--mount=gs://bucket"],
    "run": ["--", *WEIRD],
    "delete": [],
    "babysit": [TYPE, "--spot", "--", *WEIRD],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_runs_print_what_would_be_called(cloud, script):
    args = [*AT, *SCRIPTS[script]]
    dry = cloud(f"tpu/{script}.sh", "--dry-run", *args)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert cloud.calls == []
    lines = dry.stdout.splitlines()
    read = 'while IFS= read -r l; do eval "$l"; done'
    subprocess.run(
        ["bash", "-c", read],
        input=dry.stdout,
        env={"PATH": f"{cloud.folder / 'bin'}:/usr/bin:/bin"},
        text=True,
        check=True,
    )
    said = cloud.args
    assert len(said) == len(lines)
    missing = ["MISSING"] if script == "babysit" else []
    cloud.answer(request=["ACTIVE"], node=[*missing, "READY"])
    assert cloud(f"tpu/{script}.sh", *args).returncode == 0

    def alike(calls):
        text = json.dumps(calls)
        text = re.sub(r"[^\"]*/(rmas-[0-9a-f]{12}\.tar\.gz)\"", r'\1"', text)
        return re.sub(r"\d{8}-\d{6}-\d+", "RUN", text)

    assert alike(said) == alike(cloud.args)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_script(cloud, script):
    done = cloud(f"tpu/{script}.sh", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  {script}.sh --name=NAME --zone=ZONE --project=PROJECT" in done.stdout
    assert "#" not in done.stdout and "set -euo" not in done.stdout


@pytest.mark.parametrize(
    ("script", "args", "told"),
    [
        *((script, [], "--name=... is missing") for script in SCRIPTS),
        ("create", AT, "--type=... is missing"),
        ("create", [*AT, "--type=v5e-8"], "v5litepod-N"),
        ("create", [*AT, "--type=v4-32", "--revision=x"], "--revision: no such flag"),
        ("create", [*AT, TYPE, "--", "x"], "no command is wanted"),
        ("create", [*AT, TYPE, "--poll=soon"], "whole numbers"),
        ("create", [*AT, TYPE, "--spot=no"], "--spot takes no value"),
        ("delete", ["--name", "pod"], "--flag=value"),
        ("delete", ["--name=", *AT[1:]], "--name is empty"),
        ("setup", [*AT, "--revision=nowhere"], "is not a commit of"),
        ("setup", [*AT, "--mount=gs://b/folder"], "only a whole bucket"),
        ("setup", [*AT, "--mount=/dev/sdb"], "neither gs://BUCKET nor HOST:/PATH"),
        ("run", AT, "no command after --"),
        ("run", [*AT, "--"], "no command after --"),
        ("babysit", [*AT, "--", "x"], "--type=... is missing"),
    ],
)
def test_wrong_flags_end_in_one_line(cloud, script, args, told):
    cloud.git.unlink()
    done = cloud(f"tpu/{script}.sh", *args)
    assert (done.returncode, done.stdout, cloud.calls) == (2, "", [])
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert told in done.stderr


SHELL = [*sorted(TPU.glob("*.sh")), LAUNCH / "slurm" / "train.sbatch"]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_files_parse(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK) or path.name == "common.sh"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    done = subprocess.run(["shellcheck", "-x", *SHELL], capture_output=True, text=True)
    assert done.stdout == ""
