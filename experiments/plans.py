"""The plan of a stage as commands print it, and how commands begin that only compile."""

import os
import signal
from pathlib import Path

from absl import flags

from rmas.errors import InputError
from rmas.experiment import Experiment, Settings
from rmas.experiment.planning import prepare_devices
from rmas.files import atomic_write_json
from rmas.places import expanded
from rmas.training.stopping import end_on_signals

FLAGS = flags.FLAGS
_TOO_LARGE = 3
_NAME = 300  # most characters of a file's name in a message


def prepare(mesh: str, topology: str) -> None:
    """Gives a command that only compiles its devices; signals end it at once from here on.

    There is nothing to save, and Python would call a handler only when the compiler is done.

    Raises `InputError` for a mesh without sizes, where there is no topology.
    """
    end_on_signals(signal.SIGINT)
    prepare_devices(mesh, topology)


def show_plan(settings: Settings, workdir: Path, stage: str) -> int:
    """Prints the plan of a stage, writes it as JSON where that is asked for.

    Returns the exit status: 0, or 3 where a device's memory is too small.
    """
    topology, file = FLAGS.config["topology"], FLAGS.config["plan_json"]
    prepare(settings.mesh, topology)
    lengths = _plan_lengths()
    path = expanded(file) if file else None
    if path is not None:
        check_writable("--config.plan_json=", path)  # before minutes of compiling
    plan = Experiment(settings, workdir).plan(stage, *lengths, topology)
    print(plan, flush=True)
    if path is not None:
        atomic_write_json(path, plan.to_dict())
    return _TOO_LARGE if plan.fits is False else 0


def check_writable(flag: str, path: Path) -> None:
    """Makes the folder of the file that a flag (as `--out=`) names, where it can be written to.

    Raises `InputError` elsewhere.
    """
    name = f"{flag}{str(path)[:_NAME]}"
    if path.is_dir():
        raise InputError(f"{name} is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{name}: a file is where its folder should be") from None
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{name}: its folder cannot be written to")


def _plan_lengths() -> tuple[int, int]:
    found = FLAGS.config["plan_lengths"]
    two = isinstance(found, tuple) and len(found) == 2
    if not two or not all(isinstance(n, int) and n >= 0 for n in found):
        raise InputError(f"--config.plan_lengths is {found}; give two whole numbers, as (512, 256)")
    return found
