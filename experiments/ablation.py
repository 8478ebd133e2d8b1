"""Which recipe gives what: variants of links and their training, over seeds, in one table.

  python -m experiments.ablation --workdir=runs/ablation
  python -m experiments.ablation --workdir=runs/debate --sweeps=objectives \\
      --config=experiments/configs/tiny_debate.py --seeds=0,1

A sweep varies some settings of the config and keeps the others. Every variant trains inner
and outer links and answers fresh questions by true rollouts; runs that diverge, or that make links
worse, are rows, too. Writes `ablation.jsonl` (one line per variant and seed) and `ablation.md` in
the workdir. Killed, it goes on where it was when the same command is given again; more sweeps and
seeds are added to what is there. `--list` shows the variants; `experiments.ablation_table` joins
the records of several workdirs, which different machines may have filled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app
from experiments.ablation_records import RECORDS, append, markdown, read_records, words_of
from experiments.ablation_variants import SWEEPS, sweeps_of
from rmas import parallel
from rmas.checksums import write_checked
from rmas.errors import InputError
from rmas.evaluation.json_lines import line_of
from rmas.experiment.ablation import Ablation, Variant
from rmas.experiment.experiment import Experiment
from rmas.experiment.methods import check_methods
from rmas.experiment.stored import SETTINGS
from rmas.files import atomic_write_text
from rmas.tasks.generated import PUZZLES
from rmas.training.workdir import open_workdir, unlocking

_SWEEPS = flags.DEFINE_list(
    "sweeps",
    [name for name in SWEEPS if name != "memory"],
    f"What is varied: {', '.join(SWEEPS)} (for agents of one base model).",
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of links, batches and generated data.")
_ONLY = flags.DEFINE_list("only", [], "Variants to run, as --list names them; all if not given.")
_LIST = flags.DEFINE_boolean("list", False, "Show the variants, and do nothing.")
TABLE, OUTDATED = "ablation.md", "ablation-outdated.jsonl"


def main(_: list[str]) -> None:
    """Runs what is missing, and prints the table."""
    settings, workdir = app.settings_and_workdir()
    sweeps = sweeps_of(settings)
    variants = chosen(sweeps, _SWEEPS.value, _ONLY.value)
    if _LIST.value:
        for variant in variants:
            print(f"{variant.key}: {words_of(variant.stages)}")
        return
    seeds = [_seed(text) for text in _SEEDS.value]
    if not seeds:
        raise InputError("--seeds is empty; name at least one, as --seeds=0")
    if settings.evaluate.latent_lengths:
        raise InputError("--config.evaluate.latent_lengths: use --sweeps=latent_steps")
    parallel.start()
    ablation = Ablation.of(settings, workdir)
    _check(ablation, variants, seeds[0], workdir)
    open_workdir(workdir, {"base": ablation.base_facts})
    write_checked(workdir / SETTINGS, settings.anchored().to_dict())
    records = current(workdir, ablation, sweeps)
    missing = _missing(records, variants, seeds, ablation)
    for number, (variant, seed, digest) in enumerate(missing, 1):
        print(f"== {number} of {len(missing)}: {variant.key}, seed {seed}", flush=True)
        same = next((r for r in records if r["digest"] == digest), None)
        if same:
            own = {"sweep": variant.sweep, "variant": variant.name}
            record = {**same, **own, "changes": [dict(changes) for changes in variant.stages]}
        else:
            with unlocking():
                record = ablation.run(variant, seed)
        append(workdir / RECORDS, record)
        records.append(record)
        _write_table(workdir)
    print(_write_table(workdir), end="")


def chosen(
    variants: Mapping[str, Sequence[Variant]], sweeps: Sequence[str], only: Sequence[str]
) -> list[Variant]:
    """The variants of some sweeps, or those of them that `only` names."""
    for name in sweeps:
        if name not in variants:
            raise InputError(f"--sweeps: {name!r} is unknown; known: {', '.join(variants)}")
    found = [variant for name in sweeps for variant in variants[name]]
    keys = [variant.key for variant in found]
    for name in only:
        if name not in keys:
            raise InputError(
                f"--only: {name!r} is no variant of these sweeps (they are named as in "
                "objectives/hop); see --list"
            )
    return [variant for variant in found if not only or variant.key in only]


def _check(ablation: Ablation, variants: Sequence[Variant], seed: int, workdir: Path) -> None:
    """Raises `InputError` for the config, or for all variants that make no sense with it."""
    _check_stages(ablation, Variant("", "", ({},)), seed, workdir)
    refused: dict[str, list[str]] = {}
    for variant in variants:
        try:
            _check_stages(ablation, variant, seed, workdir)
        except InputError as error:
            refused.setdefault(str(error), []).append(variant.key)
    if refused:
        told = [f"{error}; leave {', '.join(keys)} out" for error, keys in refused.items()]
        raise InputError(f"{'; '.join(told)}, by --sweeps or --only")


def _check_stages(ablation: Ablation, variant: Variant, seed: int, workdir: Path) -> None:
    for settings in ablation.stages(variant, seed):
        run = Experiment(settings, workdir)
        check_methods(run.settings, run.outline)
        if settings.data.name not in PUZZLES:
            if variant.sweep == "rows":
                raise InputError("data.train is of generated tasks alone")
            run.data.rows(settings.outer, run.outline.topology, run.outline.topology.agents)


def current(
    workdir: Path, ablation: Ablation, sweeps: Mapping[str, Sequence[Variant]]
) -> list[dict[str, Any]]:
    """The records of a workdir; those of a variant that means something else now are put aside."""
    records = read_records([workdir / RECORDS])
    variants = {(v.sweep, v.name): v for own in sweeps.values() for v in own}
    kept = []
    for record in records:
        variant = variants.get((record["sweep"], record["variant"]))
        if variant and ablation.digest(variant, record["seed"]) == record["digest"]:
            kept.append(record)
        else:
            append(workdir / OUTDATED, record)
    if len(kept) < len(records):
        print(f"{len(records) - len(kept)} records of other settings are now in {OUTDATED}")
        atomic_write_text(workdir / RECORDS, "".join(f"{line_of(r)}\n" for r in kept))
    return kept


def _missing(
    records: Sequence[Mapping[str, Any]],
    variants: Sequence[Variant],
    seeds: Sequence[int],
    ablation: Ablation,
) -> list[tuple[Variant, int, str]]:
    """What has no record yet with its present settings, seed by seed, and their digests."""
    done = {(r["sweep"], r["variant"], r["seed"], r["digest"]) for r in records}
    found = []
    for seed in seeds:
        for v in variants:
            digest = ablation.digest(v, seed)
            if (v.sweep, v.name, seed, digest) not in done:
                found.append((v, seed, digest))
    return found


def _write_table(workdir: Path) -> str:
    text = markdown(read_records([workdir / RECORDS]))
    atomic_write_text(workdir / TABLE, text)
    return text


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--seeds: {text!r} is not a whole number") from None


if __name__ == "__main__":
    app.run(main, config="experiments/configs/tiny_sequential.py", workdir="runs/ablation")
