"""What the examples of own patterns share: all agents are the one tiny model that plays any role.

No config of its own; see tiny_chain.py and tiny_debate.py.
"""

from importlib import resources
from typing import Any

from ml_collections import ConfigDict

from experiments.configs import tiny_sequential


def system_of(name: str, topology: dict[str, Any]) -> ConfigDict:
    """The embedded default with this pattern; task, prompts and family are called `name`, too."""
    config = tiny_sequential.get_config()
    base = str(resources.files("rmas") / "tiny" / "generalist")
    config.system.update({"style": name, "prompts": name, "task_family": name})
    config.system.topology = ConfigDict(topology)
    config.system.agents = ConfigDict(dict.fromkeys(topology["agents"], base))
    config.data.name = name
    return config
