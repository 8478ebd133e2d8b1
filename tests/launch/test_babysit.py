"""babysit.sh against a scripted TPU."""

import shlex

import pytest

from support.stand_ins import (
    AT,
    COPY,
    CREATE,
    DELETE,
    NODE,
    REQUEST,
    RUN,
    SETUP,
    TYPE,
    WEIRD,
    StandIns,
)

QUICK = ["--pause=0", "--poll=0"]
NEW = [DELETE, CREATE, REQUEST, NODE, COPY, SETUP]
LOOK = [REQUEST, NODE]


@pytest.fixture
def cloud(tmp_path):
    return StandIns(tmp_path)


def babysit(cloud, *flags, command=WEIRD):
    return cloud("tpu/babysit.sh", *AT, TYPE, *QUICK, *flags, "--", *command)


def same_program(commands):
    """The words of the runs less their names, which differ."""
    words = [shlex.split(command) for command in commands]
    return [[*w[:2], *w[3:]] for w in words]


def test_babysit_creates_and_runs(cloud):
    cloud.answer(request=["MISSING", "ACTIVE"], node=["READY"])
    done = babysit(cloud, "--spot", "--mount=gs://b", "--logs=/nfs/logs")
    assert done.returncode == 0
    assert cloud.kinds == [REQUEST, *NEW, RUN]
    assert "--spot" in cloud.calls[2]["args"]
    assert cloud.commands(SETUP)[0].endswith("install.sh 'gs://b'")
    expected = ["bash", "rmas/launch/tpu/worker.sh", "/nfs/logs", *WEIRD]
    assert same_program(cloud.commands(RUN)) == [expected]


@pytest.mark.parametrize(
    ("request_", "node"),
    [
        (["ACTIVE"], ["READY", "PREEMPTED", "READY"]),
        (["ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE"], ["READY"]),
        (["ACTIVE", "FAILED", "ACTIVE"], ["READY"]),
        (["ACTIVE", "MISSING", "ACTIVE"], ["READY"]),
        (["ACTIVE"], ["READY", "MISSING", "READY"]),
    ],
)
def test_babysit_after_a_preemption(cloud, request_, node):
    cloud.answer(request=request_, node=node, run=[255, 0])
    done = babysit(cloud)
    assert done.returncode == 0, done.stderr
    kinds = cloud.kinds
    assert kinds[:5] == [*LOOK, COPY, SETUP, RUN]
    assert kinds[-7:] == [*NEW, RUN]
    assert kinds.count(RUN) == 2 and kinds.count(CREATE) == 1
    first, second = same_program(cloud.commands(RUN))
    assert first == second


def test_babysit_repeats_on_the_same_tpu_without_setting_it_up_again(cloud):
    cloud.answer(request=["ACTIVE"], node=["READY", "REPAIRING", "READY"], run=[143, 1, 0])
    assert babysit(cloud).returncode == 0
    assert cloud.kinds == [*LOOK, COPY, SETUP, RUN, *LOOK, *LOOK, RUN, *LOOK, RUN]


def test_babysit_does_not_delete_what_it_cannot_see(cloud):
    """A broken network is no preemption."""
    cloud.answer(request=[1, 1, "ACTIVE"], node=["READY"])
    assert babysit(cloud).returncode == 0
    assert cloud.kinds == [REQUEST, REQUEST, *LOOK, COPY, SETUP, RUN]


def test_babysit_stops_on_bad_input(cloud):
    cloud.answer(request=["ACTIVE"], node=["READY"], run=[2])
    done = babysit(cloud)
    assert done.returncode == 2
    assert "repeating would not help" in done.stderr
    assert cloud.kinds.count(RUN) == 1


def test_babysit_gives_up(cloud):
    cloud.answer(request=["ACTIVE"], node=["READY"], run=[1, 143])
    done = babysit(cloud, "--max-restarts=2")
    assert done.returncode == 143
    assert "giving up after 2 restarts" in done.stderr
    assert cloud.kinds.count(RUN) == 3


def test_babysit_sets_up_again_what_was_not_set_up(cloud):
    cloud.answer(request=["ACTIVE"], node=["READY"], setup=[1, 0])
    assert babysit(cloud).returncode == 0
    assert cloud.kinds == [*LOOK, COPY, SETUP, *LOOK, COPY, SETUP, RUN]
