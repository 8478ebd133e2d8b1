"""The generated tasks by name: of a dataset, of the family of its prompts, of its grading."""

from rmas.tasks.debate import DEBATE
from rmas.tasks.relay import CHAIN, RELAY

PUZZLES = {puzzle.name: puzzle for puzzle in (RELAY, CHAIN, DEBATE)}
