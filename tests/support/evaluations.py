"""Evaluation workdirs made by hand."""

import json
from pathlib import Path


def record(question, method="latent", rounds=1, length=None, rollout=0, exact=1.0, **more):
    """A record of schema 2 of two agents with 10 tokens each."""
    steps = 0 if length is None else length
    counts = {"prompt_tokens": 30, "latent_steps": steps, "decoded_tokens": more.pop("tokens", 10)}
    return {
        "schema": 2, "id": f"q{question}", "benchmark": "gsm8k", "method": method,
        "rounds": rounds, "latent_length": length, "rollout": rollout, "seed": 7,
        "agents": {
            "a": counts | {"positions": 45, "reused_positions": 9},
            "b": counts | {"positions": 15},
        },
        "texts": {"b": ["\u2028é"]}, "tools": [], "answer": "1", "gold": "1",
        "scores": {"exact": exact, "release_compatible": exact}, "retried": False, "note": "",
    } | more  # fmt: skip


def timing(method, start, questions, seconds, rounds=1, length=None, **more):
    """A timing of schema 4, of a run without an accelerator."""
    return {
        "schema": 4, "bucket": 64, "session": "a", "accelerator": False,
        "cpu_seconds": 1.5 * seconds,
        "method": method, "rounds": rounds, "latent_length": length, "rollout": 0, "start": start,
        "n": len(questions), "ids": [f"q{q}" for q in questions], "seconds": seconds,
        "compile": 0.5, "phases": {"render": 0.25, "write": seconds - 0.25}, "peak_bytes": 1 << 30,
    } | more  # fmt: skip


def alone(line):
    """A timing as it was before methods took turns."""
    return {k: v for k, v in line.items() if k not in _NEW}


def old(line):
    """A record or timing as files of schema 1 have it."""
    left = {k: v for k, v in line.items() if k in _OLD}
    left.pop("schema", None)
    if "agents" in left:
        left["schema"] = 1
        left["agents"] = {
            name: {k: v for k, v in counts.items() if k not in ("positions", "reused_positions")}
            for name, counts in line["agents"].items()
        }
    return left


_NEW = ("schema", "bucket", "session", "cpu_seconds", "accelerator")
_OLD = (
    *("schema", "id", "benchmark", "method", "rounds", "rollout", "seed", "agents", "texts"),
    *("tools", "answer", "gold", "scores", "start", "n", "seconds"),
)


def write(workdir: Path, records, timings=None) -> Path:
    """`workdir` with these records, and with timings where they are given."""
    folder = workdir / "evaluate"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("records", records), ("timings", timings)):
        if lines is not None:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text)
    return workdir


def write_ceilings(workdir: Path, questions: int, by_rounds: dict[int, float]) -> None:
    """The file of ceilings in `workdir`."""
    content = {"questions": questions, "by_rounds": by_rounds}
    (workdir / "evaluate" / "ceilings.json").write_text(json.dumps(content, indent=2) + "\n")


def compared(workdir: Path) -> Path:
    """Four questions in two groups; text has four times the tokens and three times the time."""
    records = [record(q, length=8) for q in range(4)]
    records += [record(q, "text", tokens=40, exact=float(q > 1)) for q in range(4)]
    times = [timing("latent", s, [s, s + 1], 1.0, length=8) for s in (0, 2)]
    times += [timing("text", s, [s, s + 1], 3.0) for s in (0, 2)]
    write(workdir, records, times)
    write_ceilings(workdir, 4, {1: 0.75})
    return workdir
