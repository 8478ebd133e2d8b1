"""Released systems on the paper's benchmarks: `released.py:STYLE,BENCHMARK`.

  python -m experiments.evaluate --config=experiments/configs/released.py:sequential_light,math500 \
      --config.system.root=DIR --config.system.prompts=release.json --workdir=runs/math500

`python experiments/configs/released.py` prints the command of every style and benchmark. DIR is the
folder of the system (without `root`: from the Hub), release.json its prompts
(experiments.import_prompts), CLONE a clone of the public release. It compares latent recursion with
text exchange and the agents alone at one to three rounds. Hardware: weights and links take 9 GiB in
bfloat16 for sequential_light, 8 for deliberation, 22 for sequential_scaled, 25 for distillation, 27
for mixture (by experiments.inspect; --config.dry_run adds the caches). Run times and results on
released weights were not measured here.
Published at three rounds (light / scaled): math500 77.8 / 88.0, medqa 31.7 / 79.3, gpqa 32.6 /
66.2, aime25 34 / 86.7, aime26 20 / 86.7, mbppplus 37.4 / -, livecodebench - / 42.9.

Lengths, temperatures and rounds are the release's where it gives them (light and scaled systems on
math500, medqa, gpqa, mbppplus); elsewhere those of the nearest.
"""

from ml_collections import ConfigDict

from rmas.tasks.benchmarks import BENCHMARKS

# Style: (latent steps, tokens of the answer) by benchmark; "" is for those not named.
STYLES = {
    "sequential_light": {
        # Not the published 4000: its solver reads 4,096 positions, question and messages included.
        "": (48, 2000),
        "math500": (48, 1000),
        "medqa": (32, 2000),
        "gpqa": (32, 2000),
        "mbppplus": (16, 2000),
    },
    "sequential_scaled": {
        "": (32, 4000),
        "math500": (32, 2000),
        "medqa": (48, 4000),
        "gpqa": (48, 4000),
        "mbppplus": (16, 4000),
    },
    "mixture": {"": (32, 4000), "math500": (32, 2000), "mbppplus": (16, 4000)},
    "distillation": {"": (32, 4000), "math500": (32, 2000), "mbppplus": (16, 4000)},
    "deliberation": {"": (32, 4000), "math500": (32, 2000), "mbppplus": (16, 4000)},
}

# Benchmark: batch, temperature, rollouts of each question; "" is for those not named.
SAMPLING = {
    "": (32, 0.6, 1),
    "aime25": (30, 0.6, 10),
    "aime26": (30, 0.6, 10),
    "mbppplus": (32, 0.2, 1),
    "livecodebench": (16, 0.6, 1),
}


def get_config(which: str) -> ConfigDict:
    """The settings of a released system on a benchmark, `STYLE,BENCHMARK`."""
    style, _, benchmark = which.partition(",")
    if style not in STYLES or benchmark not in BENCHMARKS:
        raise ValueError(
            f"{which!r} is not a STYLE,BENCHMARK; styles: {', '.join(STYLES)}; "
            f"benchmarks: {', '.join(BENCHMARKS)}"
        )
    task = benchmark.removesuffix("_release")  # the release's own rows are of the same task
    steps, tokens = STYLES[style].get(task, STYLES[style][""])
    batch, temperature, rollouts = SAMPLING.get(benchmark, SAMPLING[""])
    config = {
        "seed": 42,
        "system": {"style": style, "dtype": "bfloat16"},
        "data": {"folder": "runs/data"},
        "limits": {"latent_steps": steps, "max_new_tokens": tokens, "message_tokens": tokens},
        "sampling": {"temperature": temperature, "top_p": 0.95},
        "evaluate": {
            "data": benchmark,
            "batch_size": batch,
            "rollouts": rollouts,
            "retry": True,
        },
    }
    if style == "deliberation":
        config["tools"] = {"names": ("python",)}  # search needs an index of yours: tools.index
    return ConfigDict(config)


def main() -> None:
    """Prints the command of every style and benchmark."""
    for style in STYLES:
        for benchmark in BENCHMARKS:
            source = "" if BENCHMARKS[benchmark].source.repo else "--config.evaluate.source=CLONE "
            print(
                "python -m experiments.evaluate "
                f"--config=experiments/configs/released.py:{style},{benchmark} "
                f"--config.system.prompts=release.json {source}"
                f"--workdir=runs/{style}-{benchmark}"
            )


if __name__ == "__main__":
    main()
