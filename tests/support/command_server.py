"""A process that has imported what commands import, and runs each command as a fork of itself.

    python command_server.py FD ROOT

A request on the socket FD is a JSON object with the descriptors of the command's stdout and
stderr; the answer is the status as `os.waitpid` gives it. JAX starts no backend here: a fork makes
its own.
"""

import gc
import importlib
import json
import os
import runpy
import socket
import sys
import threading
import warnings
from pathlib import Path

IMPORTS = (
    "experiments.app",
    "rmas.experiment.experiment",
    "transformers.configuration_utils",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
)


def serve(connection: socket.socket) -> dict:
    """Answers requests; returns one, in the fork that is to run it."""
    while True:
        text, fds, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not text:
            sys.exit(0)
        child = os.fork()
        if child == 0:
            connection.close()
            for fd, standard in zip(fds, (1, 2), strict=True):
                os.dup2(fd, standard)
                os.close(fd)
            return json.loads(text)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(child, 0)
        connection.sendall(status.to_bytes(4, "little"))


def execute(args: list[str], cwd: str, environ: dict[str, str], strict: bool) -> None:
    """What `python ARGS` does in the folder `cwd`; ARGS start with `-m MODULE` or a file."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    if strict:
        warnings.simplefilter("error")
    if args[0] == "-m":
        sys.argv = args[1:]
        sys.path.insert(0, cwd)
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = args
        sys.path.insert(0, str(Path(args[0]).parent.absolute()))
        runpy.run_path(args[0], run_name="__main__")


def main() -> None:
    sys.path[0] = sys.argv[2]
    for name in IMPORTS:
        importlib.import_module(name)
    count = len(os.listdir("/proc/self/task"))
    assert count == 1, f"{count} threads; imports started some: {threading.enumerate()}"
    gc.freeze()  # a fork that ends leaves alone what it has from here
    execute(**serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
