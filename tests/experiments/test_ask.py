"""Asking: what is shown as it happens, answers that are stopped, and the commands as users type."""

import io
import json
import sys

import pytest

from experiments import conversation
from experiments.conversation import Session, converse
from rmas.checksums import write_checked
from rmas.errors import InputError
from rmas.experiment.answering import trained_system
from rmas.experiment.links import write_links
from rmas.experiment.stored import SETTINGS
from support.commands import run
from support.experiments import experiment

QUESTION = (
    "start 4 ; one add 14 mul 6 mix 10 ; two add 3 mul 2 mix 1 ; three add 0 mul 16 mix 5 ; "
    "stop two ?"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The tiny system with untrained links and its settings in its workdir."""
    made = experiment(tmp_path_factory.mktemp("run"))
    write_links(made.workdir / "outer" / "links", made.untrained_links(), made.manifest())
    write_checked(made.workdir / SETTINGS, made.settings.anchored().to_dict())
    return made


@pytest.fixture(scope="module")
def sessions(trained):
    system = trained_system(trained)
    return {method: Session(system, method, 2) for method in ("latent", "text")}


def test_text_exchange_on_the_screen(sessions, capsys):
    """The agents' texts in order, each whole, and the counts."""
    sessions["text"].ask(QUESTION)
    shown = capsys.readouterr().out
    texts = [
        (
            "round 1, planner",
            "line one : 4 add 14 = 1 . the sum of 4 and 14 is 1 so now pass value 1 to",
        ),
        ("round 1, critic", "line one : 1 mul 6 = 6 ."),
        ("round 1, solver", "line one : 6 mix 10 ="),
        ("round 2, planner", "line two :"),
        ("round 2, critic", "line two :"),
        ("round 2, solver", "line two :"),
    ]
    at = 0
    for agent, text in texts:
        at = shown.index(f"{agent}:\n  {text}", at) + 1
    rows = [line.split() for line in shown.splitlines() if line.startswith(("planner ", "solver "))]
    assert [row[2:] for row in rows] == [["0", "50", "0"], ["0", "50", "0"]]
    assert shown.splitlines()[-1].endswith(" s")


def test_latent_rounds_on_the_screen(sessions, capsys):
    sessions["latent"].ask(QUESTION)
    lines = capsys.readouterr().out.splitlines()
    thought = [line for line in lines if line.endswith(" has thought")]
    assert sorted(thought) == [
        f"round {k}: {agent} has thought"
        for k, agents in ((1, ("critic", "planner", "solver")), (2, ("critic", "planner")))
        for agent in agents
    ]
    assert lines[len(thought)] == "round 2, solver:"
    counts = {row.split()[0]: row.split()[1:] for row in lines[-4:-1]}
    assert [counts[agent][1] for agent in ("planner", "critic", "solver")] == ["16", "16", "8"]


def test_a_conversation(sessions, capsys, monkeypatch):
    """Empty lines are passed over, a wrong question is told, and the next is answered."""
    too_long = "add 1 " * 300
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"\n{too_long}\n{QUESTION}\n"))
    converse(sessions["text"])
    out, err = capsys.readouterr()
    assert err.startswith("error: question") and len(err.splitlines()) == 1
    assert out.count("tokens written") == 1


def test_an_interrupt_stops_the_answer_not_the_conversation(sessions, capsys, monkeypatch):
    session, pieces = sessions["text"], []
    wrote = session.screen.wrote

    def interrupted(agent: str, k: int, row: int, text: str) -> None:
        wrote(agent, k, row, text)
        pieces.append(agent)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(session.screen, "wrote", interrupted, raising=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n{QUESTION}\n"))
    converse(session)
    out = capsys.readouterr().out
    assert out.count("(stopped)") == 1
    assert out.count("tokens written") == 1  # the accounting of the second alone
    assert pieces[:2] == ["planner", "critic"]


def test_nothing_an_agent_writes_acts_on_the_terminal(capsys):
    """Nor can it look like another agent's turn: its lines are set in."""
    screen = conversation.Screen()
    screen.begin()
    screen.wrote("a\x1b[2J", 0, 0, "x\x1b[31m\nround 2, b:")
    screen.wrote("a\x1b[2J", 1, 0, "y")
    screen.end()
    screen.thought("late", 0)  # a stopped answer's, told to nobody
    assert capsys.readouterr().out == (
        "round 1, a\\x1b[2J:\n  x\\x1b[31m\n  round 2, b:\nround 2, a\\x1b[2J:\n  y\n"
    )


def test_an_output_that_nobody_reads_any_more(sessions, monkeypatch):
    """What breaks inside the running program is raised outside of it, for `app.run`."""

    def broken(*_, **__):
        raise BrokenPipeError

    session = sessions["latent"]
    monkeypatch.setattr(conversation, "print", broken, raising=False)
    with pytest.raises(BrokenPipeError):
        session.ask(QUESTION)


def test_bytes_that_are_no_characters(sessions, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("start \udcff 4\n"))
    converse(sessions["text"])
    assert "character 6 is not valid Unicode; write UTF-8" in capsys.readouterr().err


def test_missing_links_are_told(tmp_path):
    with pytest.raises(InputError, match=r"links is missing; train the system .*train_outer"):
        trained_system(experiment(tmp_path))


@pytest.mark.slow
def test_the_commands(trained):
    """Asking once, reading latents, showing a record, as a user types them."""
    workdir = f"--workdir={trained.workdir}"
    done = run("ask", workdir, "--rounds=1", QUESTION)
    assert done.returncode == 0, done.stderr
    assert "round 1: critic has thought" in done.stdout
    done = run("ask", workdir, "two words", "unquoted")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "unexpected argument 'unquoted'" in done.stderr
    done = run("read_latents", workdir, "--questions=3", "--rounds=2", "--top=2")
    assert done.returncode == 0, done.stderr
    assert "round 2, solver->planner" not in done.stdout  # nobody reads it any more
    assert "round 1, solver->planner (message)" in done.stdout
    facts = json.loads((trained.workdir / "latents" / "latents.json").read_text())
    assert len(facts["questions"]) == len(facts["answers"]) == 3
    assert len(facts["readings"]["planner"]["tokens"]) == 2
    assert (trained.workdir / "latents" / "latents.png").is_file()
    done = run("show_run")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "name a workdir or its records" in done.stderr
