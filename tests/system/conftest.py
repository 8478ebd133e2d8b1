"""Random tiny agents, made once."""

import json

import pytest


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of the random planner, critic and solver; copy one before you change it."""
    from support import tiny_agents

    root = tmp_path_factory.mktemp("agents")
    for role in tiny_agents.ROLES:
        tiny_agents.make_folder(root / role, role)
    return {role: str(root / role) for role in tiny_agents.ROLES}


@pytest.fixture(scope="session")
def system(folders):
    """The three as a sequential system."""
    from rmas.system.load import System, load_agents
    from rmas.system.prompts import from_json
    from rmas.system.styles import SEQUENTIAL
    from support import tiny_agents

    prompts = from_json(json.dumps(tiny_agents.PROMPTS), "PROMPTS")
    return System(SEQUENTIAL, load_agents(folders, date="01 Jan 2026"), prompts, "math")
