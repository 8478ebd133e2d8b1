"""The generated tasks by name: the name of the dataset, its task family and its grader."""

from rmas.tasks.debate import DEBATE
from rmas.tasks.relay import CHAIN, RELAY

PUZZLES = {puzzle.name: puzzle for puzzle in (RELAY, CHAIN, DEBATE)}
"""Generated tasks by name."""
