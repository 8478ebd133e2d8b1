"""A pod on one machine: several real processes that are one run, each with CPU devices of its own.

  python -m launch.local_pod --processes=4 --devices=2 -- \
      python -m experiments.train_outer --config.mesh=auto --workdir=runs/pod

Every process gets the command with `--coordinator`, `--processes` and `--process`; its lines are
shown after its number. When one fails, the others are ended, as a cluster would do. SIGTERM,
Ctrl-C and SIGHUP go to all. The exit status is that of the first process that failed.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

_GRACE = 15.0  # seconds that the others have to end by themselves


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.local_pod",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--devices", type=int, default=2, help="CPU devices of each (default: 2)")
    parser.add_argument("command", nargs="+", help="after --, without flags about processes")
    asked = parser.parse_args(argv)
    if asked.processes < 1 or asked.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    return run(asked.command, asked.processes, asked.devices)


def run(
    command: Sequence[str], processes: int, devices: int, environ: Mapping[str, str] = os.environ
) -> int:
    """The command in `processes` processes; returns the exit status."""
    flags = [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={processes}"]
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    started = [
        subprocess.Popen(
            [*command, *flags, f"--process={i}"],
            env={**environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    shown = [threading.Thread(target=_show, args=pair) for pair in enumerate(started)]
    for thread in shown:
        thread.start()
    before = {
        number: signal.signal(number, lambda n, _: [p.send_signal(n) for p in started])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        return _wait(started)
    finally:
        for thread in shown:
            thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(started: Sequence[subprocess.Popen]) -> int:
    """Waits for all, and ends the others when one fails; the exit status of that one."""
    status, deadline = 0, None
    while None in [process.poll() for process in started]:
        failed = [p.returncode for p in started if p.returncode]
        if failed and deadline is None:
            status, deadline = failed[0], time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            for process in started:
                process.kill()
        time.sleep(0.05)
    status = status or next((p.returncode for p in started if p.returncode), 0)
    return 128 - status if status < 0 else status


def _show(i: int, process: subprocess.Popen) -> None:
    with process.stdout as lines:
        for line in lines:
            if not line.startswith("[Gloo]"):  # its greetings, one for each group of devices
                print(f"[{i}] {line}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
