"""The library's front door: settings, experiments, and trained systems that answer questions."""

from rmas.experiment.answering import Reply, TrainedSystem, load
from rmas.experiment.embedded import EMBEDDED, embedded
from rmas.experiment.experiment import Experiment
from rmas.experiment.sections import (
    DataSettings,
    EvaluateSettings,
    InnerSettings,
    LinkSettings,
    OuterSettings,
    SystemSettings,
    ToolSettings,
    TopologySettings,
)
from rmas.experiment.settings import Settings

__all__ = [
    "EMBEDDED",
    "DataSettings",
    "EvaluateSettings",
    "Experiment",
    "InnerSettings",
    "LinkSettings",
    "OuterSettings",
    "Reply",
    "Settings",
    "SystemSettings",
    "ToolSettings",
    "TopologySettings",
    "TrainedSystem",
    "embedded",
    "load",
]
