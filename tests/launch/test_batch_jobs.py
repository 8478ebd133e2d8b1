"""The job of SLURM against stand-ins, and the manifest for GKE."""

import re

import pytest
import yaml

from support.stand_ins import LAUNCH, SCONTROL, WEIRD, StandIns


@pytest.fixture
def cloud(tmp_path):
    return StandIns(tmp_path)


JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "8",
}


@pytest.mark.parametrize(
    ("processes", "counts", "devices"),
    [
        ("gpu", ["--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=8"], {}),
        (
            "node",
            ["--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=32"],
            {"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"},
        ),
    ],
)
def test_slurm_starts_processes(cloud, processes, counts, devices):
    done = cloud("slurm/train.sbatch", *WEIRD, RMAS_PROCESSES=processes, **JOB)
    assert (done.returncode, done.stderr) == (0, "")
    (call,) = cloud.calls
    assert call["args"] == [*counts, "--gpu-bind=none", "--kill-on-bad-exit=0", *WEIRD]
    assert call["env"] == devices


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [(143, "0", True), (143, "100", False), (0, "0", False), (1, "0", False), (2, "0", False)],
)
def test_slurm_queues_again_what_was_stopped(cloud, status, restarts, requeued):
    cloud.answer(srun=[status])
    done = cloud("slurm/train.sbatch", "x", SLURM_RESTART_COUNT=restarts, **JOB)
    assert done.returncode == status
    again = [{"kind": SCONTROL, "args": ["requeue", "77"], "env": {}}]
    assert cloud.calls[1:] == (again if requeued else [])


@pytest.mark.parametrize(
    ("args", "env", "told"),
    [
        ([], JOB, "no command"),
        (["x"], {}, "give this file to sbatch"),
        (["x"], {**JOB, "SLURM_GPUS_ON_NODE": "8"}, "8 GPUs a node"),
        (["x"], {**JOB, "RMAS_PROCESSES": "core"}, "neither gpu nor node"),
    ],
)
def test_slurm_input_errors(cloud, args, env, told):
    done = cloud("slurm/train.sbatch", *args, **env)
    assert (done.returncode, cloud.calls) == (2, [])
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)
    assert told in done.stderr


def test_slurm_options_stand_before_the_first_command():
    """sbatch reads no option after it."""
    lines = (LAUNCH / "slurm" / "train.sbatch").read_text().splitlines()
    options = [line.split()[1] for line in lines if line.startswith("#SBATCH")]
    assert "--requeue" in options and "--signal=TERM@120" in options
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first for i, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_jobset():
    (jobset,) = yaml.safe_load_all((LAUNCH / "gke" / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    resources = container["resources"]
    chips = resources["limits"]["google.com/tpu"]
    assert resources["requests"]["google.com/tpu"] == chips
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu7x"
    total = 1
    for side in selector["cloud.google.com/gke-tpu-topology"].split("x"):
        total *= int(side)
    assert job["completions"] == job["parallelism"] == total // chips
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert container["command"][:3] == ["python", "-m", "experiments.train_outer"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    mounted = [(m["name"], m["mountPath"]) for m in container["volumeMounts"]]
    assert mounted == [(volume["name"], "/shared") for volume in pod["volumes"]]
