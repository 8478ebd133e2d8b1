"""The wrapper is about processes and exit statuses: every test has one of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import fields
from rmas.experiment import Settings
from support.commands import python, run

ROOT = Path(__file__).parents[2]
MAIN = '''"""Trains the outer links.

Example: python -m experiments.main --workdir=runs/first
"""
import logging
import time

from absl import flags

from experiments import app
from rmas.errors import InputError

flags.DEFINE_integer("times", 1, "how often to do it")


def main(argv):
    settings, workdir = app.settings_and_workdir()
    s, name = settings, settings.data.name
    print(s.outer.optim.lr, s.outer.optim.warmup_steps, s.evaluate.rounds, dict(s.system.agents),
          repr(name), s.tools.tavily, workdir, flags.FLAGS.times, flush=True)
    logging.getLogger("rmas").info("not shown")
    logging.getLogger("rmas").warning("shown")
    if name == "bad":
        raise InputError("name is bad\\nand \\x1b[2J")
    if name == "bug":
        raise KeyError("bug")
    if name == "wait":
        time.sleep(60)
    return 3 if name == "three" else None


if __name__ == "__main__":
    app.run(main, config="CONFIG"WORKDIR)
'''
CONFIG = """from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.system = {"agents": {"planner": "a", "critic": "b", "solver": "c"}}
    config.outer = {"optim": {"lr": 1, "warmup_steps": 5}}
    return config
"""
AGENTS = "{'critic': 'b', 'planner': 'a', 'solver': 'c'}"
DEFAULTS = f"1.0 5 (1, 2, 3) {AGENTS} '' False runs/x 1"


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


def start(folder, *args, main="main.py", fresh=False) -> subprocess.CompletedProcess:
    return python(main, *args, cwd=folder, env=ENV, strict=True, fresh=fresh)


def error_of(done: subprocess.CompletedProcess) -> str:
    """The one line, after checking that it is one."""
    lines = [line for line in done.stderr.splitlines() if line != "warning: shown"]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert done.returncode == 2
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("fresh", [True, False])
def test_defaults_and_logging(folder, fresh):
    done = start(folder, fresh=fresh)
    assert done.returncode == 0
    assert done.stdout.strip() == DEFAULTS
    assert done.stderr == "warning: shown\n"
    assert not (folder / "runs").exists()
    assert not (folder / "__pycache__").exists()


def test_overrides_in_any_order(folder):
    (folder / "other.py").write_text(CONFIG.replace('"a"', '"other"'))
    done = start(
        folder,
        "--config.outer.optim.lr=2",
        "--config",
        "other.py",
        "--config.outer.optim.warmup_steps",
        "7",
        "--config.tools.tavily",
        "--config.data.name=three",
        "--times=4",
        "--workdir=~/r",
    )
    assert done.returncode == 3, done.stderr  # what main returned
    agents = AGENTS.replace("'a'", "'other'")
    assert done.stdout == f"2.0 7 (1, 2, 3) {agents} 'three' True {Path.home()}/r 4\n"


def test_a_workdir_with_an_endless_name(folder):
    shown = error_of(start(folder, f"--workdir=runs/{'a' * 6000}"))
    assert shown.endswith("settings.json cannot be used: File name too long") and len(shown) < 5000


def test_flagfile(folder):
    (folder / "flags").write_text("--config=c.py\n--config.outer.optim.warmup_steps=9\n")
    assert start(folder, "--flagfile=flags").stdout.startswith("1.0 9 ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            "--config.outer.optim.lrr=1",
            "--config.outer.optim.lrr: no such field; did you mean outer.optim.lr or ",
        ),
        ("--config.zzz=2", "--config.zzz: no such field; the fields are seed, objective, mesh, "),
        ("--config.outer.optim.lr=abc", "--config.outer.optim.lr=abc: wanted float, as in 0.0001"),
        ("--config.seed=1.5", "--config.seed=1.5: wanted int, as in 0"),
        ("--config.seed=-1", "config.seed is -1; it must be at least 0 and below 4294967296"),
        ("--config.outer.optim.lr=nan", "config.outer.optim.lr is nan; it must be a finite number"),
        ("--config.quantize=int4", "config.quantize is 'int4'; it must be 'none' or 'int8'"),
        ("--config.evaluate.rounds=1,x", "config.evaluate.rounds[0] is '1'; it must be int"),
        (
            "--config.outer.optim=3",
            "--config.outer.optim: it is a group of fields; set them one by one, as "
            "--config.outer.optim.steps",
        ),
        (
            "--config.evaluate.rounds[0]=2",
            "--config.evaluate.rounds[0]: set the whole of --config.evaluate.rounds",
        ),
        (
            "--config.outer.optim.lr.x=3",
            "--config.outer.optim.lr.x: set the whole of --config.outer.optim.lr",
        ),
        ("--config.a-b=3", "--config.a-b: no such field"),
        ("--config.seed", "--config.seed is given without a value, as in --config.seed=VALUE"),
        (
            "--config.seed --config.num_questions=9 --config.seed=3",
            "--config.seed is given without",
        ),
        ("--config.data.name --config.seed=3", "--config.data.name is given without a value"),
        ("--noconfig.seed", "--noconfig.seed: only fields of kind bool have flags with no"),
        (
            "--config.system.agents.update=x",
            "--config.system.agents.update: no flag can name 'update'; set the whole, as ",
        ),
        ("--config", "--config needs a file, as in --config=experiments/configs/x.py"),
        ("--config=.", "--config=.: is a folder (in {folder})"),
        ("--config=c.py:x", "config file c.py: get_config() takes no argument"),
        ("--config=c.py --config=d.py", "--config is given 2 times: c.py, d.py; keep one"),
        (
            "--num_questions=4",
            "--num_questions is unknown; fields are set as in --config.num_quest",
        ),
        ("--wrkdir=x", "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        ("--times=x", "flag --times=x: invalid literal for int() with base 10: 'x'"),
        ("config.seed=x", "unexpected argument 'config.seed=x'; flags are given as --name=value"),
        ("--config.data.name=bad", "name is bad; and \\x1b[2J"),
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
        ("import sys\nsys.exit(0)\n", "config file x.py, line 2: SystemExit: 0"),
        (
            "from ml_collections import ConfigDict, config_dict\ndef get_config():\n"
            "    return ConfigDict({'seed': config_dict.required_placeholder(int)})\n",
            "config file x.py: RequiredValueError: ",
        ),
    ],
)
def test_broken_config_file_is_one_line_with_the_place(folder, text, message):
    (folder / "x.py").write_text(text)
    shown = error_of(start(folder, "--config=x.py", "--config.outer.optim.lr=1"))
    assert shown.startswith(message)


def test_config_with_an_argument(folder):
    text = CONFIG.replace("get_config()", "get_config(name)").replace(
        "    return config", '    config.data = {"name": name}\n    return config'
    )
    (folder / "x.py").write_text(text)
    assert "'a:b'" in start(folder, "--config=x.py:a:b").stdout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ('{"outer": {"optim": {"lrr": 1}}}', "outer.optim.lrr: no such field; did you mean"),
        ('{"sytem": {}}', "sytem: no such field; did you mean system?"),
        ('{"outer": 3}', "outer is 3; it is a group of fields"),
        ('{"seed": "x"}', "seed is 'x'; it must be int, as 0"),
        ('{"seed": None}', "seed is None; it must be int, as 0"),
        (
            '{"evaluate": {"rounds": 3}}',
            "evaluate.rounds is 3; it must be tuple of int, as (1, 2, ",
        ),
        ('{"system": {"agents": None}}', "system.agents is None; it must be dict of "),
    ],
)
def test_a_wrong_field_of_a_config_file_is_named(folder, values, message):
    text = f"from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({values})\n"
    (folder / "x.py").write_text(text)
    more = ("--config.system.agents.planner=x", "--config.evaluate.rounds=1,2")
    for flags in ((), more):
        shown = error_of(start(folder, "--config=x.py", *flags))
        assert shown.removeprefix("config file x.py: ").startswith(message)
    done = start(folder, "--config=x.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_field_can_be_set_and_the_last_value_wins(folder):
    """Fields that the file leaves out, keys of dicts, tuples, values in the next word."""
    done = start(
        folder,
        *("--config.evaluate.rounds=1,2", "--config.evaluate.rounds=(4,)"),
        *("--config.outer.optim.warmup_steps", "7", "--config.outer.optim.warmup_steps", "8"),
        *("--config.system.agents.planner=q", "--config.system.agents.extra=q"),
        "--config.system.agents={'critic': 'b', 'planner': 'a', 'solver': 'c'}",  # the whole, later
        "--config.system.agents.planner=p",
        "--config.limits.own_tokens.critic=9",
        *("--config.tools.tavily", "--noconfig.tools.tavily", "--config.data.name=x"),
    )
    assert done.returncode == 0, done.stderr
    agents = AGENTS.replace("'a'", "'p'")
    assert done.stdout == f"1.0 8 (4,) {agents} 'x' False runs/x 1\n"


def test_a_workdir_brings_its_settings(folder):
    """Where no config is named, a started run goes on with its own."""
    settings = Settings.from_dict({"outer": {"optim": {"lr": 0.5}}, "data": {"name": "mine"}})
    (folder / "runs" / "x").mkdir(parents=True)
    (folder / "runs" / "x" / "settings.json").write_text(json.dumps(settings.to_dict()))
    assert start(folder).stdout.startswith("0.5 10 (1, 2, 3) {} 'mine'")
    assert start(folder, "--config.outer.optim.lr=2").stdout.startswith("2.0 10 ")
    assert start(folder, "--config=c.py").stdout.strip() == DEFAULTS
    assert start(folder, "--workdir=runs/y").stdout.startswith("1.0 5 ")
    (folder / "runs" / "x" / "settings.json").write_text("[]")
    assert "runs/x/settings.json is not a JSON object" in error_of(start(folder))
    (folder / "runs" / "x" / "settings.json").write_text("{")
    assert "delete it, and give the command of the training again" in error_of(start(folder))
    (folder / "runs" / "x" / "settings.json").unlink()
    (folder / "runs" / "x" / "outer" / "links").mkdir(parents=True)
    assert "runs/x/settings.json is missing, the settings of what" in error_of(start(folder))
    assert start(folder, "--config=c.py").stdout.strip() == DEFAULTS


def test_missing_config_file_names_the_place(folder):
    shown = error_of(start(folder, "--config=no.py", "--config.outer.optim.lr=1"))
    assert shown.startswith(f"--config=no.py: no such file (in {folder})")


def test_workdir_without_a_default_is_required(folder):
    assert "--workdir is missing" in error_of(start(folder, main="required.py"))
    assert "runs/y 1" in start(folder, "--workdir=runs/y", main="required.py").stdout


@pytest.mark.parametrize("args", ["--config.data.name=bad", "--config.zzz=1", "--nope"])
def test_debug_adds_the_stack_trace(folder, args):
    done = start(folder, args, "--debug")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_bug_keeps_its_stack_trace(folder):
    done = start(folder, "--config.data.name=bug")
    assert done.returncode == 1
    assert "KeyError: 'bug'" in done.stderr
    assert "error: " not in done.stderr


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped"),
        (signal.SIGHUP, 143, "stopped"),
    ],
)
def test_a_signal_says_how_to_go_on(folder, number, status, told):
    with subprocess.Popen(
        command("--config.data.name=wait"),
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert "'wait'" in process.stdout.readline()
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
    for text in ("--config=FILE", "(here: c.py)", "outer.optim.lr=1", "(default: runs/x)"):
        assert text in shown
    assert "--times=VALUE\n      how often to do it (default: 1)" in shown


@pytest.mark.parametrize(("main", "field"), [("train_inner", "dry_run"), ("quickstart", "plan")])
def test_what_cannot_be_run_dry_is_refused(main, field, tmp_path):
    done = run(main, f"--config.{field}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --config.{field} belongs to experiments.")
    instead = "; --config.plan shows what this command would need\n"
    assert done.stderr.endswith(instead) == (main == "train_inner")
    assert not (tmp_path / "run").exists()


def test_help_explains_every_field():
    """Sections from their classes; each field with value, meaning, type, unit, bounds, default."""
    shown = run("evaluate", "--help").stdout
    for name in fields():
        assert f"\n        --config.{name}=" in shown
    words = " ".join(shown.split())
    assert "links: The RecursiveLinks: their form, and how they start." in words
    told = "--config.inner.optim.lr=0.003 peak learning rate [float, above 0] (default: 0.0005)"
    assert told in words
    assert "[int, tokens, at least 0]" in words
    assert "--config.dry_run say what would be done: the data is prepared, nothing is run" in words
    assert "exit status is 3 where it does not fit --config.plan_lengths=(N,N) of plan" in words


def test_help_with_a_broken_config_still_helps(folder):
    (folder / "c.py").write_text("1/0\n")
    done = start(folder, "--help")
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stdout


def test_default_config_is_found_from_another_folder(folder, tmp_path):
    """A default path is one of the project's own files."""
    text = (folder / "main.py").read_text().replace('"c.py"', '"experiments/app.py"')
    (folder / "main.py").write_text(text)
    shown = error_of(start(folder))
    assert shown == f"config file {ROOT}/experiments/app.py has no function get_config()"
