"""A conversation with a system: answers shown as they are written, and what they cost."""

import contextlib
import dataclasses
import importlib
import sys
import time

import jax

from rmas.console import aligned, printable
from rmas.errors import InputError
from rmas.experiment import TrainedSystem
from rmas.experiment.links import warn_of_rounds
from rmas.system.answers import Answer, Question


@dataclasses.dataclass(eq=False)
class Screen:
    """Shows what agents do, as it happens (a `Listener`); lines of texts are set in."""

    speaker: tuple[str, int] | None = None
    listening: bool = False
    broken: OSError | None = None

    def thought(self, agent: str, k: int) -> None:
        """A latent turn is over. Comes from the running program, also from one that was stopped."""
        try:
            if self.listening:
                self._turn(f"round {k + 1}: {agent} has thought")
        except OSError as error:  # to be raised where the answer is waited for, not in here
            self.broken = error

    def wrote(self, agent: str, k: int, row: int, text: str) -> None:
        """A new piece of text."""
        if self.broken:
            raise self.broken
        if (agent, k) != self.speaker:
            self._turn(f"round {k + 1}, {agent}:")
            self.speaker = (agent, k)
            print("  ", end="")
        print(printable(text, keep="\n").replace("\n", "\n  "), end="", flush=True)

    def begin(self) -> None:
        """The next answer begins."""
        self.listening, self.broken = True, None

    def end(self) -> None:
        """The answer is there, or was stopped."""
        self.listening = False
        if self.speaker:
            print(flush=True)
        self.speaker = None

    def _turn(self, line: str) -> None:
        if self.speaker:
            print()
        self.speaker = None
        print(printable(line), flush=True)


@dataclasses.dataclass(eq=False)
class Session:
    """A system in memory that answers one question after the other."""

    system: TrainedSystem
    method: str
    rounds: int
    screen: Screen = dataclasses.field(default_factory=Screen)

    def __post_init__(self):
        self.runner = self.system.runner(listener=self.screen)
        self.asked = 0
        if self.method == "latent":
            warn_of_rounds(self.system.settings.outer.rounds, self.rounds)

    def ask(self, text: str) -> None:
        """Answers one question on the screen."""
        self.asked += 1
        question = [Question(str(self.asked), text)]
        jax.effects_barrier()  # late calls of an answer that was stopped are dropped
        self.screen.begin()
        began = time.perf_counter()
        try:
            if self.method == "latent":
                links, form = self.system.links, self.system.form
                (answer,) = self.runner.latent(links, form, question, self.rounds, 1)
            else:
                (answer,) = self.runner.text(question, self.rounds, 1)
        finally:
            self.screen.end()
        print(accounting(answer, time.perf_counter() - began))


def accounting(answer: Answer, seconds: float) -> str:
    """What each agent did for an answer."""
    columns = ("prompt_tokens", "latent_steps", "decoded_tokens")
    cells = [["agent", "positions read", "latent steps", "tokens written", "tool calls"]]
    for agent, counts in answer.counts.items():
        calls = sum(use["agent"] == agent for use in answer.tools)
        cells.append([printable(agent), *(str(counts[c]) for c in columns), str(calls)])
    return f"{aligned(cells)}\n{seconds:.2f} s"


def converse(session: Session) -> None:
    """Reads questions until the end of the input; an answer that is interrupted is dropped."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # lines can be edited, and come back with the arrows
    typed = sys.stdin.isatty()
    while True:
        try:
            text = input("question> " if typed else "").strip()
        except UnicodeDecodeError:
            print("error: the line is not UTF-8", file=sys.stderr)
            continue
        except EOFError:
            if typed:
                print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends)")
            continue
        if not text:
            continue
        try:
            session.ask(text)
        except KeyboardInterrupt:
            print("\n(stopped)")
        except InputError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
