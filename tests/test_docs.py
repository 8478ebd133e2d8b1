"""README and docs: their Python runs, their commands parse, what they name and quote is there.

The blocks of a page run in order, with one namespace, in a folder with the files that pages show
and a trained workdir. The front door is made small for it: few steps, few rows, short texts; the
Hub is a folder of tiny agents. A comment before a block says `slow`, or `not run: REASON`. The fast
suite runs Python that is not slow and quick commands; every command is parsed.
"""

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import setuptools
from absl import flags

import rmas
from experiments import app
from experiments import config as configs
from launch import local_pod
from rmas.experiment import EMBEDDED, Experiment, Settings, answering
from rmas.experiment.links import write_links
from rmas.experiment.stored import SETTINGS
from rmas.files import atomic_write_json
from rmas.options import described
from rmas.weights import hub
from support.pages import PAGES, ROOT, Block, blocks, commands, shown_files

RELEASE = ROOT / "tests" / "system" / "released_goldens"
ASSIGNED = re.compile(r"[A-Z][A-Z_]*=")
WORDS = {"STYLE": "sequential_light", "HOST": "localhost", "relay-000017": "relay-000001"}
"""What stands for the names in capitals that a reader replaces, and for rows that are not here."""
OTHERS = {
    *("apt-get", "break", "cd", "deactivate", "do", "done", "gcloud", "git", "hf", "kubectl"),
    *("mkdocs", "mypy", "pip", "pytest", "ruff", "sed", "sleep", "sudo", "tensorboard", "uv"),
    *(".", "[", ".ci/run"),
}
"""Programs that pages name and that are not ours."""
QUICK = ("build_search_index", "inspect", "prepare_data", "report", "show_run")
"""Commands that the fast suite runs."""
SLOW = ("ask", "convert_links", "evaluate", "read_latents", "train_inner", "train_outer")
"""Commands that the slow suite runs as well."""
ELSEWHERE = ("released.py", "math500", "mesh=data", "plan", "coordinator", "benchmarks", "debate")
"""Words of commands that are only parsed: they need the Hub's data, more devices or more time."""


def small(settings: Settings) -> Settings:
    """The same settings as a run of seconds."""
    r, s = dataclasses.replace, settings
    some = ("latent", "text") if s.data.name in EMBEDDED else s.evaluate.methods[:1]
    methods = tuple(m for m in s.evaluate.methods if m in some)
    return r(
        s,
        mesh="single",
        data=r(s.data, train=8, validation=2, test=2),
        links=r(s.links, aligned_rows=4),
        inner=r(s.inner, optim=r(s.inner.optim, steps=1), batch_size=2, cache_states="none"),
        outer=r(s.outer, optim=r(s.outer.optim, steps=1), batch_size=2, rounds=2),
        limits=r(s.limits, latent_steps=2, max_new_tokens=32, message_tokens=8),
        evaluate=r(s.evaluate, batch_size=1, rounds=(2,), methods=methods),
    )


class Small(Experiment):
    """An experiment of seconds: embedded agents are not trained, their links stay as they start."""

    def __init__(self, settings: Settings, workdir: str | Path) -> None:
        super().__init__(small(settings), workdir)

    def train_inner(self, agents: Sequence[str] = (), links: str | None = None) -> None:
        """Trains own agents; else writes the initial inner links."""
        if self.settings.data.name not in EMBEDDED:
            return super().train_inner(agents, links)
        for agent, link in self.initial_links()["inner"].items():
            folder = self.workdir / "inner" / agent / "links"
            write_links(folder, {"inner": {agent: link}}, self.manifest())

    def train_outer(self, links: str | None = None) -> None:
        """Trains own agents; else writes the initial links."""
        if self.settings.data.name not in EMBEDDED:
            return super().train_outer(links)
        write_links(self.workdir / "outer" / "links", self.initial_links(), self.manifest())
        atomic_write_json(self.workdir / SETTINGS, self.settings.to_dict())


def stand_in(resolve: Callable, root: Path) -> Callable:
    """`hub.resolve` with the folder of a tiny released system in the place of the Hub."""

    def found(source: str, *args: Any, **options: Any) -> hub.Located:
        if Path(source).expanduser().is_dir() or "/" not in source:
            return resolve(source, *args, **options)
        released = ("outer", "planner", "solver") if source.startswith("RecursiveMAS/") else ()
        name = next((name for name in released if name in source.lower()), "critic")
        return hub.Located(root / name, source, "0" * 40)

    return found


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A released system of tiny agents, with longer contexts."""
    root = tmp_path_factory.mktemp("release") / "root"
    shutil.copytree(RELEASE / "root", root)
    for path in root.glob("*/config.json"):
        text = re.sub(
            r'"max_position_embeddings": \d+', '"max_position_embeddings": 4096', path.read_text()
        )
        path.write_text(text)
    return root


@pytest.fixture(scope="module", autouse=True)
def front_door(release) -> Iterator[None]:
    """The front door made small, for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rmas.experiment, "Experiment", Small)
        patch.setattr(answering, "Experiment", Small)
        patch.setattr(hub, "resolve", stand_in(hub.resolve, release))
        yield


@pytest.fixture(scope="module")
def trained(front_door, tmp_path_factory) -> Path:
    """The workdir of the embedded system."""
    run = Small(rmas.embedded(), tmp_path_factory.mktemp("docs") / "tiny")
    run.train_inner()
    run.train_outer()
    run.evaluate()
    return run.workdir


@pytest.fixture
def folder(tmp_path, monkeypatch, trained, release) -> Path:
    """The current folder: the clone's commands, the files that pages show, trained workdirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("experiments", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, content in shown_files().items():
        (tmp_path / name).write_text(content)
    shutil.copy(RELEASE / "prompts.json", tmp_path / "release.json")
    (tmp_path / "DIR").symlink_to(release)
    for name in ("tiny", "quickstart"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    return tmp_path


def is_slow(block: Block) -> bool:
    """Whether the fast suite leaves out something of a block that can run here."""
    if block.language != "bash":
        return block.mark == "slow"
    return not block.mark and any(runs(words, SLOW) for words in commands(block))


def suites() -> list:
    """Every page without what is slow; and those that have such, whole."""
    mark = {"README.md": pytest.mark.slow}
    return [pytest.param(page, False, id=page) for page in PAGES] + [
        pytest.param(page, True, id=f"{page} whole", marks=mark.get(page, pytest.mark.extended))
        for page in PAGES
        if any(map(is_slow, blocks(page)))
    ]


def runs(words: list[str], names: Sequence[str]) -> bool:
    """Whether a command is one of those named, and can run here."""
    if words[:2] != ["python", "-m"] or any(part in " ".join(words) for part in ELSEWHERE):
        return False
    return words[2].removeprefix("experiments.") in names


@pytest.mark.parametrize(("page", "whole"), suites())
def test_page(page, whole, folder, monkeypatch, own_flags):
    names: dict[str, object] = {"__name__": page}
    if not whole:  # else the page makes it
        shutil.copytree("runs/tiny", "runs/mine")
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(ROOT / page), "exec")
            if not block.title and (not block.mark or (whole and block.mark == "slow")):
                exec(code, names)
        elif block.language == "bash":
            for words in commands(block):
                quick = (*QUICK, *SLOW) if whole else QUICK
                run = not block.mark.startswith("not run") and runs(words, quick)
                check(words, block, run, monkeypatch, own_flags)


@dataclasses.dataclass
class Command:
    """One of our mains, with its flags parsed."""

    main: Callable
    argv: list[str]


def parsed(module: str, args: list[str], patch: pytest.MonkeyPatch) -> Command:
    """Parses the flags of `python -m experiments.MODULE ARGS` as the command would."""
    declared = {}

    def run(main: Callable, config=None, workdir=None, words=0, dry=(), pod=False, **_) -> None:
        declared.update(main=main, config=config, workdir=workdir, words=words, pod=pod)
        patch.setattr(app, "_dry", dry)

    patch.setattr(app, "run", run)
    patch.delitem(sys.modules, f"experiments.{module}", raising=False)
    runpy.run_module(f"experiments.{module}", run_name="__main__")
    if declared.pop("pod"):
        for name in ("coordinator", "processes", "process"):
            flags.DEFINE_string(name, "", "") if name == "coordinator" else flags.DEFINE_integer(
                name, 1, ""
            )
    argv = app._parse([module, *args], **declared)
    if declared["config"] is not None:
        configs.settings_of(flags.FLAGS.config)
    return Command(declared["main"], argv)


@pytest.fixture
def own_flags() -> Iterator[Callable[[], None]]:
    """Forgets the flags that commands define, when called and at the end.

    Those of commands that other tests have imported are back at the end.
    """
    modules = flags.FLAGS.flags_by_module_dict()
    imported = [
        (module, flag)
        for module in modules
        if module.startswith("experiments.")
        for flag in modules[module]
    ]
    for _, flag in imported:
        delattr(flags.FLAGS, flag.name)
    for library in ("grain", "orbax.checkpoint"):  # imported late, and their flags are to stay
        importlib.import_module(library)
    before = set(flags.FLAGS)

    def forget() -> None:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()

    yield forget
    forget()
    for module, flag in imported:
        flags.FLAGS[flag.name] = flag
        flags.FLAGS.register_flag_by_module(module, flag)
    flags.FLAGS([sys.argv[0]])


def check(words: list[str], block: Block, run: bool, patch, forget) -> None:
    """Parses a command, and runs it if that is asked for and can be."""
    words = [re.sub("|".join(WORDS), lambda m: WORDS[m[0]], word) for word in words]
    while words and (words[0] in ("until", "env", "then") or ASSIGNED.match(words[0])):
        words = words[1:]
    program, rest = Path(words[0]).name, words[1:]
    if rest and "--" in rest and "python" in rest:  # a launcher, and what it launches
        check(rest[rest.index("python") :], block, False, patch, forget)
    if words[0].startswith("launch/"):
        dry = ("--dry-run",) if words[0].startswith("launch/tpu/") else ()
        assert (ROOT / words[0]).is_file(), block.place
        if dry:
            done = subprocess.run(
                ["bash", ROOT / words[0], *dry, *rest], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block.place}: {done.stderr}"
    elif program == "sbatch":
        check(rest[rest.index("python") :], block, False, patch, forget)
    elif program == "pip" and rest[0] == "install":
        check_extras(rest[1:], block)
    elif program in ("python", "python3") and rest[:1] == ["-m"]:
        check_module(rest[1], rest[2:], block, run, patch, forget)
    elif program in ("python", "python3") and rest[0] == "-c":
        compile(rest[1], block.place, "exec")
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), block.place
    else:
        assert program in OTHERS or words[0] in OTHERS, f"{block.place}: what is {words[0]}?"


def check_module(module: str, args: list[str], block: Block, run: bool, patch, forget) -> None:
    """Parses `python -m MODULE ARGS`, and runs it if that is asked for."""
    top, _, name = module.partition(".")
    if top == "launch":
        patch.setattr(local_pod, "run", lambda command, processes, devices: 0)
        assert local_pod.main(args) == 0, block.place
    elif top == "experiments":
        forget()
        command = parsed(name, args, patch)
        if run:
            command.main(command.argv)
    else:
        assert top in ("venv", "pip", "pytest", "mypy"), block.place


def check_extras(args: list[str], block: Block) -> None:
    """The extras that a line of pip names are those of setup.py."""
    for word in args:
        if found := re.fullmatch(r"\.\[(.*)\]", word):
            unknown = set(found[1].split(",")) - extras()
            assert not unknown, f"{block.place}: setup.py has no extra {unknown}"


def extras() -> set[str]:
    """The extras of setup.py."""
    found: dict[str, dict] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: found.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    return set(found["extras_require"])


def test_every_command_is_listed():
    shown = (ROOT / "docs" / "commands.md").read_text()
    for path in (ROOT / "experiments").glob("*.py"):
        if "\n    app.run(" in path.read_text():
            assert f"`{path.stem}`" in shown, path.stem


def test_settings_reference_has_every_field():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.settings_reference()
    for field in described(Settings):
        assert f"| `{field.name}` |" in page or field.section is not None, field.name
    assert "::: rmas.system.run" in hooks.api_reference("rmas.system")
    assert "`rmas.Experiment`" in hooks.api_reference("rmas")


def test_quoted_errors_are_in_the_code():
    """Every heading of the page is an error of the code: its fixed parts stand there."""
    texts = set()
    for path in [*ROOT.glob("rmas/**/*.py"), *ROOT.glob("experiments/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
                texts.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    headings = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert len(headings) > 40
    for heading in headings:
        for part in filter(None, (part.strip() for part in re.split("[…;]", heading))):
            assert any(part in text for text in texts), f"{part!r} of {heading!r}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http:", "https:")):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert os.access(ROOT / "mkdocs.yml", os.R_OK)
