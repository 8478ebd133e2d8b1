"""Writes `released_goldens/`: a tiny released system and what PyTorch computes from it.

    PYTHONPATH=.:tests python tests/system/make_released_goldens.py

It needs torch; the tests of the result do not.

`root` is a `sequential_scaled` system, `prompts.json` its prompt set, `expected.npz` and
`expected.json` are those of `released_reference.Expected`, with the questions. These are chosen:
no decision is close, feedback changes an answer, and one answer stops early.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from support import released_reference, released_systems

FOLDER = Path(__file__).parent / "released_goldens"
STYLE, TASK, ROUNDS, STEPS, TOKENS = "sequential_scaled", "math", 3, 4, 24
MARGIN = 5e-3
CANDIDATES = 240


def candidates() -> list[str]:
    """Questions of various lengths."""
    random = np.random.default_rng(0)
    words = " ".join(released_systems.QUESTIONS).split()
    return [" ".join(random.choice(words, random.integers(2, 16))) for _ in range(CANDIDATES)]


def choose(release: released_reference.Release) -> list[str]:
    """Three questions whose answers rounding does not touch."""
    questions = candidates()
    found = release.run(questions, ROUNDS, STEPS, TOKENS)
    last = f"R{ROUNDS}"
    sure = [
        n
        for n in range(len(questions))
        if all(min(margins[n]) > MARGIN for margins in found.margins.values())
    ]
    stops = [n for n in sure if len(found.ids[last][n]) < TOKENS]
    turns = [n for n in sure if found.ids[last][n] != found.ids["R1"][n] and n not in stops]
    print(f"{len(sure)} sure, {len(stops)} stop, {len(turns)} change")
    return [questions[n] for n in (turns[0], stops[0], turns[1])]


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    root = FOLDER / "root"
    released_systems.make(STYLE, root)
    prompts = released_systems.write_json(FOLDER / "prompts.json", released_systems.PROMPTS)
    release = released_reference.Release(STYLE, root, TASK, prompts)
    questions = choose(release)
    expected = release.run(questions, ROUNDS, STEPS, TOKENS)
    closest = min(min(gaps) for rows in expected.margins.values() for gaps in rows)
    np.savez_compressed(FOLDER / "expected.npz", **expected.arrays)
    segments = {
        agent: {
            phase: [release.segments(agent, phase, q) for q in questions]
            for phase in ("first", "later")
        }
        for agent in release.agents
    }
    content = {
        "questions": questions,
        "segments": segments,
        "ids": expected.ids,
        "texts": expected.texts,
    }
    text = json.dumps(content, separators=(",", ":"))
    (FOLDER / "expected.json").write_text(text + "\n")
    size = sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file())
    print(f"closest decision {closest:.4f}, {size} bytes")


if __name__ == "__main__":
    main()
