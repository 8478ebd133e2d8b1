"""The wrapper is about processes and exit statuses: every test starts a real one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import run

ROOT = Path(__file__).parents[2]
MAIN = '''"""Trains the outer links.

Example: python -m experiments.main --workdir=runs/first
"""
import dataclasses
import logging
import time

from absl import flags

from experiments import app
from rmas.errors import InputError

flags.DEFINE_integer("times", 1, "how often to do it")


@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float
    warmup: int


@dataclasses.dataclass(frozen=True)
class Settings:
    optim: Optim
    agents: tuple[str, ...]
    name: str | None
    shuffle: bool
    nothing: None


def main(argv):
    config, workdir = app.config_from_flags()
    settings = app.freeze(config, Settings)
    print(settings, workdir, flags.FLAGS.times, flush=True)
    logging.getLogger("rmas").info("not shown")
    logging.getLogger("rmas").warning("shown")
    if settings.name == "bad":
        raise InputError("name is bad\\nand \\x1b[2J")
    if settings.name == "bug":
        raise KeyError("bug")
    if settings.name == "wait":
        time.sleep(60)
    return 3 if settings.name == "three" else None


if __name__ == "__main__":
    app.run(main, config="CONFIG"WORKDIR)
'''
CONFIG = """from ml_collections import ConfigDict, config_dict


def get_config():
    config = ConfigDict()
    config.optim = ConfigDict({"lr": 1e-3, "warmup": 5})
    config.agents = ("planner", "critic")
    config.name = config_dict.placeholder(str)
    config.shuffle = True
    config.nothing = None
    return config
"""
DEFAULTS = (
    "Settings(optim=Optim(lr=0.001, warmup=5), agents=('planner', 'critic'), name=None, "
    "shuffle=True, nothing=None) runs/x 1"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "c.py").write_text(CONFIG)
    text = MAIN.replace("CONFIG", "c.py")
    (tmp_path / "main.py").write_text(text.replace("WORKDIR", ', workdir="runs/x"'))
    (tmp_path / "required.py").write_text(text.replace("WORKDIR", ""))
    return tmp_path


def command(*args, main="main.py") -> list[str]:
    return [sys.executable, "-W", "error", main, *args]


ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def start(folder, *args, main="main.py") -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args, main=main),
        cwd=folder,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
    )


def error_of(done: subprocess.CompletedProcess) -> str:
    """The one line, after checking that it is one."""
    lines = [line for line in done.stderr.splitlines() if line != "warning: shown"]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert done.returncode == 2
    return lines[0].removeprefix("error: ")


def test_defaults_and_logging(folder):
    done = start(folder)
    assert done.returncode == 0
    assert done.stdout.strip() == DEFAULTS
    assert done.stderr == "warning: shown\n"
    assert not (folder / "runs").exists()
    assert not (folder / "__pycache__").exists()


def test_overrides_in_any_order(folder):
    (folder / "other.py").write_text(CONFIG.replace("planner", "expert"))
    done = start(
        folder,
        "--config.optim.lr=2",
        "--config",
        "other.py",
        "--config.optim.warmup",
        "7",
        "--noconfig.shuffle",
        "--config.name=three",
        "--times=4",
        "--workdir=~/r",
    )
    assert done.returncode == 3, done.stderr  # what main returned
    assert "Optim(lr=2.0, warmup=7), agents=('expert', 'critic'), name='three'" in done.stdout
    assert f"shuffle=False, nothing=None) {Path.home()}/r 4" in done.stdout


def test_flagfile(folder):
    (folder / "flags").write_text("--config=c.py\n--config.optim.warmup=9\n")
    assert "warmup=9" in start(folder, "--flagfile=flags").stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "--config.optim.lrr=1",
            "--config.optim.lrr: no such field in c.py; did you mean optim.lr?",
        ),
        (
            "--config.zzz=2",
            "--config.zzz: no such field in c.py; the fields are agents, name, nothing, optim.lr, "
            "optim.warmup, shuffle",
        ),
        ("--config.optim.lr=abc", "--config.optim.lr=abc: wanted float, as in 0.001"),
        ("--config.optim.warmup=1.5", "--config.optim.warmup=1.5: wanted int, as in 5"),
        (
            "--config.optim=3",
            "--config.optim: it is a group of fields; set them one by one, as --config.optim.lr",
        ),
        ("--config.optim.lr.x=3", "--config.optim.lr.x: config.optim.lr is a float, it has no 'x'"),
        (
            "--config.agents[0]=x",
            "--config.agents[0]: set the whole of --config.agents, "
            "as --config.agents=('planner', 'critic')",
        ),
        (
            "--config.nothing=1",
            "--config.nothing: it is None in c.py, so its type is not known; set it in the file, "
            "or make it ml_collections.config_dict.placeholder(TYPE) there",
        ),
        ("--config.a-b=3", "--config.a-b: not a field name"),
        ("--config.optim.lr", "Missing value for flag --config.optim.lr"),
        ("--config", "--config needs a file, as in --config=experiments/configs/x.py"),
        ("--config=.", "--config=.: is a folder (in {folder})"),
        ("--config=c.py:x", "config file c.py: get_config() takes no argument"),
        ("--config=c.py --config=d.py", "--config is given 2 times: c.py, d.py; keep one"),
        ("--wrkdir=x", "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        ("--times=x", "flag --times=x: invalid literal for int() with base 10: 'x'"),
        ("config.name=x", "unexpected argument 'config.name=x'; flags are given as --name=value"),
        ("--config.name=bad", "name is bad; and \\x1b[2J"),
        (
            "--workdir=",
            "--workdir is missing; name a folder for this run, as --workdir=runs/first",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(folder, args, message):
    shown = error_of(start(folder, *args.split()))
    assert shown.startswith(message.format(folder=folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "config file x.py, line 1: SyntaxError: invalid syntax"),
        (
            "def get_config():\n    x = 1\n    return len(x)\n",
            "config file x.py, line 3: TypeError: object of type 'int' has no len()",
        ),
        ("\nimport nowhere\n", "config file x.py, line 2: ModuleNotFoundError: No module named"),
        ("\nopen('gone.txt')\n", "config file x.py, line 2: FileNotFoundError: "),
        ("x = 1\n", "config file x.py has no function get_config()"),
        (
            "def get_config():\n    pass\n",
            "config file x.py: get_config() returned NoneType; wanted ml_collections.ConfigDict",
        ),
        (
            "def get_config(size):\n    pass\n",
            "config file x.py: get_config() needs an argument: --config=x.py:ARG",
        ),
        (
            "from rmas.errors import InputError\nraise InputError('no data')\n",
            "config file x.py, line 2: no data",
        ),
        ("\x00", "config file x.py"),
    ],
)
def test_broken_config_file_is_one_line_with_the_place(folder, text, message):
    (folder / "x.py").write_text(text)
    shown = error_of(start(folder, "--config=x.py", "--config.optim.lr=1"))
    assert shown.startswith(message)


def test_config_with_an_argument(folder):
    text = CONFIG.replace("get_config()", "get_config(name)").replace(
        "config_dict.placeholder(str)", "name"
    )
    (folder / "x.py").write_text(text)
    assert "name='a:b'" in start(folder, "--config=x.py:a:b").stdout


def test_missing_config_file_names_the_place(folder):
    shown = error_of(start(folder, "--config=no.py", "--config.optim.lr=1"))
    assert shown.startswith(f"--config=no.py: no such file (in {folder})")


def test_workdir_without_a_default_is_required(folder):
    assert "--workdir is missing" in error_of(start(folder, main="required.py"))
    assert "runs/y 1" in start(folder, "--workdir=runs/y", main="required.py").stdout


@pytest.mark.parametrize("args", ["--config.name=bad", "--config.zzz=1", "--nope"])
def test_debug_adds_the_stack_trace(folder, args):
    done = start(folder, args, "--debug")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_bug_keeps_its_stack_trace(folder):
    done = start(folder, "--config.name=bug")
    assert done.returncode == 1
    assert "KeyError: 'bug'" in done.stderr
    assert "error: " not in done.stderr


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped")],
)
def test_a_signal_says_how_to_go_on(folder, number, status, told):
    with subprocess.Popen(
        command("--config.name=wait"),
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert "name='wait'" in process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    lines = [line for line in errors.splitlines() if line != "warning: shown"]
    assert lines == [f"{told}; the same command resumes the run"]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_teaches(folder, flag):
    done = start(folder, flag)
    assert done.returncode == 0
    assert done.stderr == ""
    shown = done.stdout
    assert shown.startswith("Trains the outer links.\n\nExample: python -m experiments.main")
    for text in ("--config=FILE", "(default: c.py)", "optim.lr = 0.001", "(default: runs/x)"):
        assert text in shown
    assert "--times\n      how often to do it (default: 1)" in shown
    assert len(shown.splitlines()) < 30


@pytest.mark.parametrize(("main", "field"), [("train_inner", "dry_run"), ("quickstart", "plan")])
def test_what_cannot_be_run_dry_is_refused(main, field, tmp_path):
    done = run(main, f"--config.{field}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --config.{field} belongs to experiments.")
    assert not (tmp_path / "run").exists()


def test_help_says_what_fields_are():
    """Of every section, from its class; what only a file can set is told, too."""
    shown = run("evaluate", "--help").stdout
    assert "      links: Form and initialisation; `ridge` and" in shown
    assert "\n        evaluate.temperature = 0.0\n" in shown
    assert "\n      # inner.optim.b1 = 0.9\n" in shown
    assert "\n      # system.topology = None\n" in shown


def test_help_with_a_broken_config_still_helps(folder):
    (folder / "c.py").write_text("1/0\n")
    done = start(folder, "--help")
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stdout


def test_default_config_is_found_from_another_folder(folder, tmp_path):
    """A default path is one of the project's own files."""
    text = (folder / "main.py").read_text().replace('"c.py"', '"experiments/freeze.py"')
    (folder / "main.py").write_text(text)
    shown = error_of(start(folder))
    assert shown == f"config file {ROOT}/experiments/freeze.py has no function get_config()"
