"""The tools of each agent, as the settings name them."""

import dataclasses
import math

from rmas.errors import InputError
from rmas.experiment.sections import ToolSettings
from rmas.places import expanded
from rmas.system.topology import Topology
from rmas.tools import Limits as ProgramLimits
from rmas.tools import PythonTool, Sandbox, SearchTool, Tool, Toolbox, open_search


def toolboxes(settings: ToolSettings, topology: Topology) -> dict[str, Toolbox]:
    """The tools of each agent that may call some; sandbox and index are tried here.

    Raises `InputError` where they cannot be used on this machine, or belong to nobody.
    """
    callers = settings.agents or topology.callers
    if settings.functions and not callers:
        raise InputError("tools.functions are given to nobody; name agents in tools.agents")
    if not callers or not (settings.names or settings.functions):
        return {}
    made: list[Tool] = [
        dataclasses.replace(function, timeout=settings.seconds) for function in settings.functions
    ]
    if "python" in settings.names:
        limits = ProgramLimits(wall=settings.seconds, cpu=math.ceil(settings.seconds))
        made.append(PythonTool(Sandbox.detect(unsafe=settings.unsafe), limits))
    if "search" in settings.names:
        if not (settings.index or settings.tavily):
            raise InputError(
                f"{', '.join(callers)} may search, but tools.index names no index (made by "
                "experiments.build_search_index); name one, set tools.tavily, or leave search "
                "out of tools.names"
            )
        index = str(expanded(settings.index)) if settings.index else None
        engine = open_search(index, settings.tavily)
        made.append(SearchTool(engine, seconds=settings.seconds))
    return dict.fromkeys(callers, Toolbox(made, settings.calls, settings.characters))
