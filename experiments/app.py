"""The one wrapper around `absl.app.run` that all mains share.

    def main(argv):
        settings, workdir = app.settings_and_workdir()

    if __name__ == "__main__":
        app.run(main, config="experiments/configs/tiny_sequential.py", workdir="runs/quickstart")

Wrong input (an InputError, or flags and config files that do not parse) ends in one line on
stderr and exit status 2; `--debug` shows the stack trace before it. Ctrl-C exits with 130, and a
run that was asked to end (SIGTERM, SIGHUP) and has saved its state with 143. Commands that only
compile end by the signal itself (see `plans.prepare`), which a shell shows as the same numbers.
"""

import atexit
import errno
import gc
import logging
import os
import re
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app as absl_app
from absl import flags
from absl import logging as absl_logging

from experiments import config as configs
from experiments import quit_at_once
from rmas import parallel
from rmas.console import printable
from rmas.errors import BusyError, InputError, PeersLostError, Stopped
from rmas.experiment import Settings
from rmas.experiment.stored import find_settings
from rmas.files import full_disk, is_full_disk
from rmas.places import expanded
from rmas.training.orbax_errors import should_print
from rmas.training.stopping import end_on_signals, leave_lost_terminal

__all__ = ["run", "say", "settings_and_workdir", "start"]

FLAGS = flags.FLAGS
_DRY = {
    "dry_run": "experiments.evaluate",
    "plan": "experiments.train_inner, train_outer and evaluate",
}
_OF_PLAN = {"plan_lengths": "(N,N)", "topology": "SLICE", "plan_json": "FILE"}
_AFTER = 3.0
_LONG = 4000  # most characters of a message: a path may be as long as its writer likes
_NAME = 300  # most characters of a file's name in a message
_ENVIRONMENT = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE),
)  # errors of files that are no fault of the code
_dry: tuple[str, ...] = ()  # what this main can describe without doing it
_HELP = ("--help", "-help", "-h", "--helpshort", "-?")
_OURS = {
    "config": "config file: Python with a function get_config() that names what differs from the "
    "defaults, or a settings.json; where it is not given, the one of the workdir, if there is one",
    "workdir": "folder of this run; a started run in it is resumed",
    "debug": "show the stack trace of an error",
    "coordinator": "HOST:PORT of process 0, where a run has several processes; not needed in a "
    "SLURM step or on a TPU pod",
    "processes": "how many processes the run has",
    "process": "which one of them this is, from 0",
}


def run(
    main: Callable[[list[str]], int | None],
    config: str | None = None,
    workdir: str | None = None,
    words: int = 0,
    resumes: bool = True,
    pod: bool = False,
    dry: tuple[str, ...] = (),
) -> None:
    """Parses the flags, runs `main(argv)`, and exits; never returns.

    `config` is the config where `--config` is not given and the workdir has no settings of its
    own; without one the main has no such flag. `workdir` is the default of `--workdir`; without
    one a main that asks for it makes the flag required. A main with neither is not resumed: it has
    no such flag. At most `words` arguments may come without a flag; they are the rest of `argv`.
    `resumes` says whether the same command goes on after Ctrl-C where it was. A main for `pod`s
    runs in many processes, and calls `start` first. `dry` names the fields of the config,
    `dry_run` or `plan`, by which it only describes what it would do.
    """
    global _dry
    _dry = dry
    gc.freeze()  # what was imported stays: collections look at what comes after it
    gc.enable()
    if pod:
        flags.DEFINE_string("coordinator", None, _OURS["coordinator"])
        flags.DEFINE_integer("processes", 1, _OURS["processes"])
        flags.DEFINE_integer("process", 0, _OURS["process"])

    def parse(argv: list[str]) -> list[str]:
        return _parse(argv, main, config, workdir, words)

    if resumes and (config is not None or workdir is not None):
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, _stop)
    if signal.getsignal(signal.SIGINT) is quit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        absl_app.run(lambda argv: _to_the_end(main, argv), flags_parser=parse)
    except InputError as error:
        if _debug():
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        _leave(2)
    except (PeersLostError, BusyError) as error:
        print(f"error: {_one_line(error)}; the same command resumes the run", file=sys.stderr)
        _leave(1)
    except Stopped as stopped:
        print(f"{_one_line(stopped)}; the same command resumes the run", file=sys.stderr)
        sys.exit(stopped.status)
    except BrokenPipeError:  # the reader of our output, as in `... | head`, wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, quit_at_once)  # another one while the process ends
        if _debug():
            traceback.print_exc()
        after = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        resume = "; the same command resumes the run" if resumes and "workdir" in FLAGS else ""
        print(f"{after}interrupted{resume}", file=sys.stderr)
        _leave(130)
    except Exception as error:
        if reason := _environment(error):
            if _debug():
                traceback.print_exc()
            print(f"error: {_one_line(reason)}", file=sys.stderr)
            _drop_output()
            _leave(2)
        if not parallel.is_joined():
            raise
        traceback.print_exc()
        _leave(1)


def _to_the_end(main: Callable[[list[str]], int | None], argv: list[str]) -> int | None:
    """Runs `main` until what it prints is written, so that a full disk there is an error, too."""
    status = main(argv)
    sys.stdout.flush()
    return status


def _drop_output() -> None:
    """What could not be printed shall not be tried again when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _environment(error: Exception) -> str:
    """What is wrong with disk or files, where an error that nothing else names is of that kind."""
    name = getattr(error, "filename", None)
    if is_full_disk(error):
        return str(full_disk(name or "a file, or the output,"))
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT and name:
        return f"{str(name)[:_NAME]}: {error.strerror}"
    return ""


def _stop(*_: object) -> None:
    """SIGTERM and SIGHUP, where no training listens for them, end like Ctrl-C."""
    leave_lost_terminal()
    raise Stopped("stopped")


def _leave(status: int) -> None:
    """Ends the process. One of many does so at once, and the runtime ends the others.

    (The regular end would wait minutes for them, and then abort with a status of its own.) The
    first one, whose end ends the others, waits for those to exit that have found the same error.
    """
    if not parallel.is_joined():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    if parallel.is_first():
        time.sleep(_AFTER)
    os._exit(status)


def start() -> None:
    """Joins the other processes of the run, as flags or the cluster name them; see `parallel`.

    Of many processes only the first one logs warnings; the others log errors.
    """
    cluster = None
    if FLAGS.coordinator:
        cluster = parallel.Cluster(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
    elif FLAGS.processes != 1:
        raise InputError(
            f"--processes={FLAGS.processes} needs --coordinator=HOST:PORT and --process=I"
        )
    parallel.start(cluster=cluster, pod=True)
    if not parallel.is_first():
        absl_logging.set_verbosity(absl_logging.ERROR)


def after_training() -> None:
    """SIGTERM and SIGHUP end this process at once; JAX's runtime has listened for the first."""
    if parallel.is_joined():
        end_on_signals()


def say(text: str) -> None:
    """Prints a result, in the first process of the run."""
    if parallel.is_first():
        print(text, flush=True)


def settings_and_workdir(**changes: object) -> tuple[Settings, Path]:
    """The settings with all overrides, and the work folder (not made yet).

    `changes` are top-level fields that a flag of the main's own sets. Dry runs and plans need no
    work folder: a dry run gets one that goes when it ends; a plan, which writes nothing and may
    end at any time, one that cannot be made. Raises InputError where `--workdir` is missing, or a
    dry run is asked of what cannot do one.
    """
    for name, value in changes.items():
        FLAGS.config[name] = value
    settings = configs.settings_of(FLAGS.config)
    asked = [name for name in _DRY if FLAGS.config[name]]
    for name in asked:
        if name not in _dry:
            instead = f"; --config.{_dry[0]} shows what this command would need" if _dry else ""
            raise InputError(f"--config.{name} belongs to {_DRY[name]}{instead}")
    for name in _OF_PLAN if "plan" not in asked else ():
        if FLAGS.config[name] != configs.COMMAND[name][0]:
            devices = "; a run uses the devices that it finds" if name == "topology" else ""
            raise InputError(f"--config.{name} belongs to --config.plan{devices}")
    if not FLAGS.workdir and "plan" in asked:
        return settings, Path(os.devnull) / "none"
    if not FLAGS.workdir and asked:
        folder = tempfile.TemporaryDirectory()
        atexit.register(folder.cleanup)
        return settings, Path(folder.name)
    if not FLAGS.workdir:
        raise InputError(
            "--workdir is missing; name a folder for this run, as --workdir=runs/first"
        )
    return settings, expanded(FLAGS.workdir)


def asks_for(name: str) -> bool:
    """Whether `--config.dry_run` or `--config.plan` is given."""
    return bool(FLAGS.config[name])


def _parse(
    argv: list[str], main: Callable, config: str | None, workdir: str | None, words: int
) -> list[str]:
    if config is not None or workdir is not None:
        flags.DEFINE_string("workdir", workdir, _OURS["workdir"])
    flags.DEFINE_boolean("debug", False, _OURS["debug"])
    try:
        argv = [argv[0], *FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        wants_help = any(word in _HELP for word in argv[1:])
        if config is not None:
            named, argv = configs.split_argv(argv)
            spec = named or _of_workdir(argv, workdir) or configs.find_default(config)
            if wants_help:
                _print_help(main, spec, workdir)
                sys.exit(0)
            argv = configs.define_flag(configs.load(spec), argv)
        elif wants_help:
            _print_help(main, None, workdir)
            sys.exit(0)
        rest = FLAGS(argv)
    except flags.Error as error:
        raise InputError(configs.explain(error)) from error
    if len(rest) > 1 + words:
        raise InputError(
            f"unexpected argument {rest[1 + words]!r}; flags are given as --name=value, "
            "texts with blanks in quotes"
        )
    if FLAGS["verbosity"].using_default_value:
        FLAGS.verbosity = absl_logging.WARNING  # absl's own default shows what libraries do
    if not FLAGS.debug:
        absl_logging.get_absl_handler().setFormatter(_OneLine())
        absl_logging.get_absl_handler().addFilter(should_print)
    return rest


def _of_workdir(argv: list[str], default: str | None) -> str | None:
    """The settings that a run has left in the workdir that the flags name, if it has."""
    named = default
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(r"--?workdir(?:=(.*))?", word, re.DOTALL):
            named = after if match[1] is None else match[1]
    path = find_settings(expanded(named)) if named else None
    return str(path) if path is not None else None


class _OneLine(logging.Formatter):
    """`warning: ...`, since a user has no use for times and source lines."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {_one_line(record.getMessage())}"


def _print_help(main: Callable, spec: str | None, workdir: str | None) -> None:
    module = sys.modules[main.__module__]
    print((module.__doc__ or f"{sys.argv[0]} has no description.").strip())
    print("\nFlags:")
    if "workdir" in FLAGS:
        default = f" (default: {workdir})" if workdir else ""
        _print_flag("--workdir=FOLDER", _OURS["workdir"] + default)
    _print_flag("--debug", _OURS["debug"])
    if "coordinator" in FLAGS:
        for flag, value in (("coordinator", "HOST:PORT"), ("processes", "N"), ("process", "I")):
            _print_flag(f"--{flag}={value}", _OURS[flag])
    name = sys.argv[0] if main.__module__ == "__main__" else main.__module__
    for flag in FLAGS.get_key_flags_for_module(name):
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        value = "" if flag.boolean else "=VALUE"
        _print_flag(f"--{flag.name}{value}", f"{flag.help}{default}")
    _print_flag("--helpfull", "flags of the libraries, too")
    if spec is not None:
        _print_flag("--config=FILE", f"{_OURS['config']} (here: {spec})")
        for name in _dry:
            _print_flag(f"--config.{name}", configs.COMMAND[name][1])
        for name, value in _OF_PLAN.items() if "plan" in _dry else ():
            default, text = configs.COMMAND[name]
            text += f" (default: {default})" if default else ""
            _print_flag(f"--config.{name}={value}", text)
        _print_flag("--config.recipe=NAME", configs.COMMAND["recipe"][1])
        _print_flag("--config.FIELD=VALUE", "set one field; the values shown are those of the file")
        try:
            print("\n".join(configs.help_of(configs.load(spec))))
        except InputError as error:
            print(f"      but {_one_line(error)}")


def _print_flag(name: str, text: str) -> None:
    print(f"  {name}")
    print(textwrap.fill(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _debug() -> bool:
    """Whether `--debug` was given, also where the flags did not get parsed."""
    if FLAGS.is_parsed():
        return bool(FLAGS.debug)
    return any(word in ("--debug", "-debug", "--debug=true") for word in sys.argv)


def _one_line(error: object) -> str:
    """The text on one line that is not endless, with nothing that could act on a terminal."""
    text = printable("; ".join(s for line in str(error).splitlines() if (s := line.strip())))
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 2 :]}"
