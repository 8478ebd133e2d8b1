"""Your own agents: change the folders (or Hub ids) and the rows, and run.

  python -m experiments.train_inner --config=experiments/configs/own.py --workdir=runs/mine
  python -m experiments.train_outer --workdir=runs/mine
  python -m experiments.evaluate --workdir=runs/mine

A row of the file has `question`, `answer` and one text per role: `{"question": ..., "answer": ...,
"texts": {"planner": ..., "critic": ..., "solver": ...}}`; questions to evaluate on need no texts.
Where agents that exchange messages cut texts differently (train_outer warns), use
`--config.objective=hop` and the best links by validation (docs/recipes.md says how, and why).

Everything else has a default: `--help` lists all fields, and `--config.dry_run` of
experiments.evaluate shows what was derived from agents and data.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """What differs from the defaults."""
    agents = dict.fromkeys(("planner", "critic", "solver"), "Qwen/Qwen3-1.7B")
    data, evaluate = {"name": "rows.jsonl"}, {"data": "test.jsonl"}
    return ConfigDict({"system": {"agents": agents}, "data": data, "evaluate": evaluate})
