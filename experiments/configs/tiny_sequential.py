"""The embedded system: three tiny agents and the relay task, sequential style.

  CONFIG=experiments/configs/tiny_sequential.py
  python -m experiments.quickstart --config=$CONFIG --workdir=runs/tiny

or its stages one by one, with the same flags: experiments.train_inner, experiments.train_outer,
experiments.evaluate. Two CPU cores take 7 minutes and 3 GB; latents should reach .34, .67 and .99
(the ceiling is .34, .68 and 1) at one, two and three rounds.
"""

from importlib import resources

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    tiny = resources.files("rmas") / "tiny"
    return ConfigDict(
        {
            "seed": 0,
            "mesh": "single",  # agents this small gain nothing from more devices
            "quantize": "none",
            "num_questions": 0,
            "dry_run": False,
            "plan": False,
            "plan_lengths": (512, 256),
            "profile_steps": (),
            "latent_steps": 8,  # the result is the 8th token of every message
            "objective": "align",
            "system": {
                "style": "sequential",
                "agents": {a: str(tiny / a) for a in ("planner", "critic", "solver")},
                "prompts": "relay",
                "task_family": "relay",
                "date": "2026-01-01",
                "dtype": "float32",
            },
            "data": {
                "name": "relay",
                "train": 8000,
                "validation": 500,
                "test": 1000,
                "field": "",
                "source": "",
                "folder": "",
            },
            "links": {"form": "ln_res", "init": "aligned", "ridge": 1e-3, "aligned_rows": 512},
            "inner": {
                "optim": {"steps": 800, "lr": 3e-3, "warmup_steps": 10},
                "batch_size": 16,
                "message_tokens": 8,
                "max_length": 4096,
                "save_every": 200,
                "save_minutes": 0.0,
                "accumulate": 1,
                "validation_rows": 0,
                "take": "last",
                "features": "auto",
            },
            "outer": {
                "train": ("inner", "outer"),
                "optim": {"steps": 400, "lr": 1e-3, "warmup_steps": 10},
                "batch_size": 24,
                "rounds": 3,
                "on_policy": 0.5,
                "max_latent_tokens": 80,
                "max_length": 4096,
                "shift": 0,
                "earlier_rounds": 0.0,
                "save_every": 100,
                "save_minutes": 0.0,
                "accumulate": 1,
                "validation_rows": 0,
                "take": "last",
                "remat": "turns",
            },
            "evaluate": {
                "methods": ("latent", "text", "text_terse", "single", "untrained"),
                "rounds": (1, 2, 3),
                "split": "test",
                "batch_size": 125,
                "max_new_tokens": 32,
                "message_tokens": 32,
                "terse_tokens": 8,
                "temperature": 0.0,
                "top_p": 1.0,
                "top_k": 0,
                "task": "",
                "latent_lengths": (),
                "rollouts": 1,
                "retry": False,
                "grade_seconds": 10.0,
            },
            "tools": {
                "agents": (),  # none: the tiny agents have not learnt to call
                "names": ("python", "search"),
                "functions": (),
                "calls": 5,
                "seconds": 10.0,
                "characters": 6000,
                "index": "",
                "tavily": False,
                "unsafe": False,
            },
        }
    )
