"""Calls the prompt builders of a foreign clone in a process of their own.

Both ends of the pipe are here: `call_builders`, and the child, which is this file run as a
script by an isolated interpreter. The child has an empty environment, an empty folder to work
in and no terminal; it cannot write files, its memory and time are limited, and its answer is
JSON that is checked here. That keeps accidents out. It is no jail: what runs there is still
code that the user chose to run.

Only the standard library is imported, since the child may run under another Python.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

MAX_ANSWER = 4 << 20
MAX_TEXT = 100_000
_MEMORY = 4 << 30


class ReleaseError(Exception):
    """What is wrong with a clone or its answer, in one line."""


def call_builders(
    clone: Path,
    calls: list[tuple[str, dict[str, Any]]],
    constants: list[str],
    python: str,
    timeout: float,
) -> tuple[list[str | None], dict[str, str | None]]:
    """Imports `prompts.py` of a clone in a child process and calls functions in it.

    Args:
      calls: functions with keyword arguments; an object among them becomes a namespace.
      constants: names to look up.
      python: the interpreter of the child.
      timeout: seconds that the child may take.

    Returns:
      What the calls give, and the constants by name; None for what `prompts.py` lacks.

    Raises:
      ReleaseError: the clone has no `prompts.py`; it or a function in it fails; the child does
        not start, takes too long, or gives something else than texts.
    """
    if not (clone / "prompts.py").is_file():
        raise ReleaseError("no clone of the release: prompts.py is missing")
    request = {"clone": str(clone), "calls": calls, "constants": constants}
    data = _run_child(json.dumps(request).encode(), python, timeout)
    try:
        reply = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ReleaseError("the builders' answer is not JSON") from e
    reply = reply if isinstance(reply, dict) else {}
    if isinstance(reply.get("error"), str):
        raise ReleaseError(reply["error"][:300])
    texts, found = reply.get("texts"), reply.get("constants")
    if not (isinstance(texts, list) and len(texts) == len(calls)):
        raise ReleaseError("the builders' answer is not what was asked for")
    if not (isinstance(found, dict) and found.keys() == set(constants)):
        raise ReleaseError("the builders' answer is not what was asked for")
    for text in (*texts, *found.values()):
        if not (text is None or isinstance(text, str)):
            raise ReleaseError("the builders' answer holds something else than texts")
        if text is not None and len(text) > MAX_TEXT:
            raise ReleaseError(f"a builder gives a text of more than {MAX_TEXT} characters")
    return texts, found


def _run_child(request: bytes, python: str, timeout: float) -> bytes:
    """Starts the child, hands it the request, and gives what it answers."""
    program = shutil.which(python)
    if program is None:
        raise ReleaseError(f"there is no program {python!r}; give another --python")
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as question:
        question.write(request)
        question.seek(0)
        try:
            child = subprocess.Popen(
                [os.path.abspath(program), "-I", "-B", os.path.abspath(__file__)],
                stdin=question,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
        except OSError as e:
            raise ReleaseError(f"cannot start {python!r}: {e.strerror}") from e
        with child:
            try:
                data = _read(child.stdout.fileno(), deadline)
            finally:  # whatever it has started goes with it
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
    if data is None:
        raise ReleaseError(f"the builders took more than {timeout:g} s; raise --timeout")
    if len(data) > MAX_ANSWER:
        raise ReleaseError(f"the builders answered with more than {MAX_ANSWER >> 20} MiB")
    if not data:
        raise ReleaseError("the builders ended without an answer")
    return data


def _read(pipe: int, deadline: float) -> bytes | None:
    """All that comes, or a little more than the limit; None when time is up."""
    data = b""
    while len(data) <= MAX_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            break
        data += chunk
    return data


# The child.


def _load_prompts(clone: str) -> types.ModuleType:
    """The module `prompts` of a clone.

    Its package `inference_utils` is stood in for by an empty one with the same folder, so that
    single files of it are found but its own start, which needs torch, is not run. Early
    revisions of the release call themselves `release_code`.
    """
    utils = os.path.join(clone, "inference_utils")
    packages = {
        "inference_utils": utils,
        "release_code": clone,
        "release_code.inference_utils": utils,
    }
    for name, folder in packages.items():
        package = types.ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    sys.path.insert(0, clone)
    spec = importlib.util.spec_from_file_location("prompts", os.path.join(clone, "prompts.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["prompts"] = module
    spec.loader.exec_module(module)
    return module


def _answer(request: dict[str, Any]) -> str:
    """The reply to a request; an error in it names what failed."""
    at = "prompts.py"
    try:
        module = _load_prompts(request["clone"])
        texts = []
        for at, given in request["calls"]:
            builder = getattr(module, at, None)
            if builder is None:
                texts.append(None)
                continue
            values = {
                k: types.SimpleNamespace(**v) if isinstance(v, dict) else v
                for k, v in given.items()
            }
            text = builder(**values)
            if not isinstance(text, str):
                raise TypeError(f"gives {type(text).__name__}, not a text")
            texts.append(text)
        constants = {name: getattr(module, name, None) for name in request["constants"]}
        return json.dumps({"texts": texts, "constants": constants})
    except BaseException as e:  # foreign code may raise anything, SystemExit included
        lines = str(e).strip().splitlines()
        return json.dumps({"error": f"{at}: {type(e).__name__}: {lines[-1] if lines else ''}"})


def _child() -> None:
    """Reads the request, keeps the pipe to itself, and answers."""
    request = json.load(sys.stdin)
    null = os.open(os.devnull, os.O_RDWR)
    with os.fdopen(os.dup(1), "wb") as pipe:
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        for limit, value in (
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, _MEMORY),
        ):
            with contextlib.suppress(ValueError, OSError):  # not every system has every limit
                resource.setrlimit(limit, (value, value))
        pipe.write(_answer(request).encode())
    os._exit(0)  # nothing of the foreign code's runs on


if __name__ == "__main__":
    _child()
