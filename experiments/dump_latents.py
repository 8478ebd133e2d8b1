"""Writes what a released system thinks, sends and answers, greedily, for comparison with others.

  python -m experiments.dump_latents --style=sequential_light --root=DIR --questions=FILE.json \\
      --task_family=math --prompts=FILE.json --rounds=3 --latent_steps=5 --max_new_tokens=24 \\
      --batch_size=3 --dtype=float32 --out=DIR

FILE.json of --questions is a JSON list of texts. STYLE.npz holds `round{r}/{agent}/hidden`
[N, m, d] (states after the final norm, of every agent that rolls out in round r) and
`round{r}/{src}->{dst}/message` [N, m, d_dst]. STYLE.json holds the token ids around the slots
of every prompt (`segments`) and the answers for every number of rounds (`outputs`). As in the
release, an answer ends at the tokenizer's own eos alone.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from experiments import app
from rmas import parallel
from rmas.errors import InputError
from rmas.files import read_json, replacing_folder
from rmas.places import expanded
from rmas.system.answers import Limits, Question
from rmas.system.encode import Encoded, Slot
from rmas.system.outline import LoadedSystem, load_system
from rmas.system.released import DATE
from rmas.system.rendered import Renderer
from rmas.system.run import Runner
from rmas.system.sampling import Sampling
from rmas.system.styles import STYLES

_STYLE = flags.DEFINE_enum("style", None, sorted(STYLES), "Released style.", required=True)
_ROOT = flags.DEFINE_string("root", None, "Folder of the system; the Hub's repositories if absent.")
_QUESTIONS = flags.DEFINE_string("questions", None, "JSON list of questions.", required=True)
_TASK_FAMILY = flags.DEFINE_string("task_family", "math", "Task family of the prompts.")
_PROMPTS = flags.DEFINE_string("prompts", None, "Prompt set (JSON file); this project's if absent.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds; answers for 1 to this many.", 1)
_STEPS = flags.DEFINE_integer("latent_steps", 16, "Latent steps of a turn.", 1)
_TOKENS = flags.DEFINE_integer("max_new_tokens", 256, "Longest answer.", 1)
_BATCH = flags.DEFINE_integer("batch_size", 8, "Questions at a time.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the weights.")
_MESH = flags.DEFINE_string("mesh", "single", "Mesh, as in data=2,tensor=4; auto; or single.")
_QUANTIZE = flags.DEFINE_enum("quantize", "none", ["none", "int8"], "Type of the matrices.")
_DATE = flags.DEFINE_string("date", DATE, "Date for chat templates that print one.")
_OUT = flags.DEFINE_string("out", None, "Folder for STYLE.npz and STYLE.json.", required=True)


def main(_: list[str]) -> None:
    """Runs the questions and writes thoughts, messages, prompts and answers."""
    questions = read_questions(expanded(_QUESTIONS.value))
    out = expanded(_OUT.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out={out} cannot be made: {e.strerror}") from e
    files = [out / f"{_STYLE.value}.{kind}" for kind in ("npz", "json")]
    for file in files:
        if file.is_dir():
            raise InputError(f"--out={out} cannot be written: {file.name} in it is a folder")
    parallel.start()
    batch = min(_BATCH.value, len(questions))
    loaded = load_system(
        _STYLE.value,
        _ROOT.value,
        task_family=_TASK_FAMILY.value,
        dtype=_DTYPE.value,
        mesh=_MESH.value,
        prompts=_PROMPTS.value,
        quantize=_QUANTIZE.value == "int8",
        date=_DATE.value,
        batch=batch,
    )
    limits = Limits(_STEPS.value, _TOKENS.value, _TOKENS.value)
    arrays, outputs = dump(loaded, questions, _ROUNDS.value, limits, batch)
    text = {"segments": all_segments(loaded, questions), "outputs": outputs}
    try:
        with replacing_folder(out, last=(files[1].name,)) as made:
            np.savez(made / files[0].name, **arrays)
            (made / files[1].name).write_text(json.dumps(text) + "\n")
    except OSError as e:
        raise InputError(f"--out={out} cannot be written: {e.strerror}") from e
    print(f"{len(questions)} questions: {files[0]}, {files[1]}")


def read_questions(path: Path) -> list[str]:
    """A JSON list of texts, at least one."""
    questions = read_json(path)
    ok = isinstance(questions, list) and questions and all(isinstance(q, str) for q in questions)
    if not ok:
        raise InputError(f"questions {path} must be a JSON list of texts, at least one")
    return questions


def dump(
    loaded: LoadedSystem, questions: list[str], rounds: int, limits: Limits, batch: int
) -> tuple[dict[str, np.ndarray], dict[str, list[dict]]]:
    """Arrays of the run with all rounds, and the answers for each number of rounds."""
    runner = Runner(loaded.system, limits, Sampling(), seed=0)
    asked = [Question(str(n), text) for n, text in enumerate(questions)]
    parts: dict[str, list[np.ndarray]] = {}
    outputs: dict[str, list[dict]] = {f"R{r}": [] for r in range(1, rounds + 1)}
    for start in range(0, len(asked), batch):
        group = asked[start : start + batch]
        for r in range(1, rounds + 1):
            answers, thoughts = runner.recorded(
                loaded.links, loaded.form, group, r, batch, record=r == rounds
            )
            outputs[f"R{r}"] += [{"ids": list(a.ids), "text": a.text} for a in answers]
        for agent, own in thoughts.items():
            for n, hidden_BMD in enumerate(own.hidden_RBMD, 1):
                key = f"round{n}/{agent}/hidden"
                parts.setdefault(key, []).append(hidden_BMD.astype(np.float32))
            for edge, message_RBMD in own.messages.items():
                for n, message_BMD in enumerate(message_RBMD, 1):
                    parts.setdefault(f"round{n}/{edge}/message", []).append(message_BMD)
    return {key: np.concatenate(group) for key, group in parts.items()}, outputs


def all_segments(loaded: LoadedSystem, questions: list[str]) -> dict[str, dict[str, list]]:
    """Token ids around the slots, per agent, phase and question."""
    renderer = Renderer(loaded.system)
    return {
        agent: {
            phase: [segments(renderer.encoded(agent, q, phase)) for q in questions]
            for phase in ("first", "later")
        }
        for agent in loaded.system.topology.agents
    }


def segments(encoded: Encoded) -> list[list[int]]:
    """The runs of ids before, between and after the slots of a prompt."""
    found: list[list[int]] = [[]]
    for run in encoded:
        if isinstance(run, Slot):
            found.append([])
        else:
            found[-1] += run
    return found


if __name__ == "__main__":
    app.run(main)
