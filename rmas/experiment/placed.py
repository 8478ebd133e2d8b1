"""The loaded system of an experiment, on the mesh that suits the stage that runs."""

from collections.abc import Mapping

from jax.sharding import Mesh

from rmas.experiment import derive
from rmas.experiment.settings import Settings
from rmas.system.load import System
from rmas.system.outline import Outline
from rmas.tools import Toolbox
from rmas.weights.placement import choose_mesh


def mesh_of(settings: Settings, outline: Outline, stage: str, local: bool = False) -> Mesh:
    """The mesh of a stage (`inner`, `outer` or `evaluate`); `auto` looks at its batches.

    `local` is for the devices of this process only. Raises `InputError` as `choose_mesh` does.
    """
    return choose_mesh(
        settings.mesh,
        outline.owners,
        derive.dtype(settings).value,
        settings.quantize == "int8",
        local,
        derive.rows(settings, stage),
    )


class Placed:
    """Loads the system when a stage first needs it, and again where a stage needs another mesh."""

    def __init__(self, settings: Settings, outline: Outline, tools: Mapping[str, Toolbox]) -> None:
        self._settings, self._outline, self._tools = settings, outline, tools
        self._system: System | None = None

    @property
    def system(self) -> System:
        """As the last stage used it; before any stage, on the mesh of an evaluation."""
        return self._system or self.for_stage("evaluate")

    def for_stage(self, stage: str) -> System:
        """The system on the mesh of a stage."""
        mesh = mesh_of(self._settings, self._outline, stage)
        if self._system is None or self._system.mesh != mesh:
            self._system = None  # frees its weights before those of the other mesh are read
            self._system = self._load(mesh)
        return self._system

    def on_this_process(self, stage: str) -> System:
        """The system on the devices of this process alone; it is not kept."""
        return self._load(mesh_of(self._settings, self._outline, stage, local=True))

    def _load(self, mesh: Mesh) -> System:
        return self._outline.load(
            dtype=derive.dtype(self._settings).value,
            mesh=mesh,
            quantize=self._settings.quantize == "int8",
            tools=self._tools,
        )
