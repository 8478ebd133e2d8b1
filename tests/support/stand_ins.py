"""Stand-ins for gcloud, srun and scontrol, and the scripts of `launch/` run against them.

A stand-in writes its arguments to `calls.jsonl` and answers from `answers.json`: a list of
answers for each kind of call, of which the last one stays. A word is printed, a number is the exit
status, MISSING the error of gcloud for what does not exist.
"""

import json
import subprocess
import sys
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"
TPU = LAUNCH / "tpu"
AT = ["--name=pod", "--zone=us-x1-a", "--project=mine"]
TYPE = "--type=v5litepod-8"
WEIRD = ["python", "-m", "x", "a  b", "it's", 'say "hi"', "$HOME `id` \\ &", "", "*", "two\nlines"]
REQUEST, NODE, CREATE, DELETE = "request", "node", "create", "delete"
COPY, SETUP, RUN, SRUN, SCONTROL = "copy", "setup", "run", "srun", "scontrol"

STAND_IN = f"""#!{sys.executable} -IS
import json, os, sys
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
kind = name
if name == "gcloud":
    kind = {{
        "queued-resources describe": "request",
        "tpu-vm describe": "node",
        "queued-resources create": "create",
        "queued-resources delete": "delete",
        "tpu-vm scp": "copy",
        "tpu-vm ssh": "run" if "worker.sh" in args[-3] else "setup",
    }}[" ".join(args[2:4])]
env = {{k: v for k, v in os.environ.items() if k.startswith("JAX_")}}
with open(here + "/calls.jsonl", "a") as f:
    f.write(json.dumps({{"kind": kind, "args": args, "env": env}}) + "\\n")
with open(here + "/answers.json") as f:
    answers = json.load(f)
mine = answers.get(kind, [0])
answer = mine.pop(0) if len(mine) > 1 else mine[0]
with open(here + "/answers.json", "w") as f:
    json.dump(answers, f)
if answer == "MISSING":
    sys.exit("ERROR: (gcloud) NOT_FOUND: Resource was not found")
if isinstance(answer, str):
    print(answer)
    answer = 0
sys.exit(answer)
"""


class StandIns:
    """Runs scripts with the stand-ins before everything else on PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        (folder / "bin").mkdir()
        for name in ("gcloud", "srun", "scontrol"):
            path = folder / "bin" / name
            path.write_text(STAND_IN)
            path.chmod(0o755)
        # Of one commit, for packing this repository takes long.
        self.git = folder / "bin" / "git"
        self.git.write_text("#!/bin/sh\ncase $* in *rev-parse*) echo 0123456789abcdef ;; esac\n")
        self.git.chmod(0o755)
        self.answer()

    def answer(self, **answers: list[str | int]) -> None:
        """Forgets the calls; without other answers there is a TPU, and all goes well."""
        answers = {REQUEST: ["ACTIVE"], NODE: ["READY"], **answers}
        (self.folder / "answers.json").write_text(json.dumps(answers))
        (self.folder / "calls.jsonl").write_text("")

    def __call__(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [LAUNCH / script, *args],
            env={"PATH": self.path, "HOME": str(self.folder), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )

    @property
    def calls(self) -> list[dict]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def kinds(self) -> list[str]:
        return [call["kind"] for call in self.calls]

    @property
    def args(self) -> list[list[str]]:
        return [call["args"] for call in self.calls]

    def commands(self, kind: str) -> list[str]:
        """What the workers were told in every ssh of a kind."""
        found = [call["args"][-3] for call in self.calls if call["kind"] == kind]
        return [arg.removeprefix("--command=") for arg in found]


def gcloud(*args: str) -> list[str]:
    """The arguments of a command of gcloud for the TPU that the tests use."""
    return ["compute", "tpus", *args, *AT[1:]]
