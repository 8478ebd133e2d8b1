"""From settings to the outline of their system, and to what training knows of it."""

from rmas.errors import InputError
from rmas.experiment.settings import Settings
from rmas.system.outline import Outline
from rmas.training.objectives import TrainingContext


def outline_of(settings: Settings) -> Outline:
    """The outline of the system that settings (as `derive.names` gives them) describe.

    Raises `InputError` for whatever is wrong with its folders, prompts and configurations.
    """
    s = settings.system
    given = {"prompts": s.prompts, "task_family": s.task_family, "date": s.date}
    if s.released:
        return Outline.of_style(s.released, s.root or None, **given)
    if not s.agents:
        raise InputError(
            "system.agents is empty; name the folder or Hub id of every agent "
            f"({', '.join(s.graph().agents)}), or a released system in system.style"
        )
    return Outline.of_agents(s.agents, s.graph(), form=settings.links.parsed_form, **given)


def published_outline(settings: Settings) -> Outline | None:
    """The outline of a released system that would come from the Hub, without downloading it."""
    s = settings.system
    if s.released is None or s.root:
        return None
    return Outline.of_release(s.released, prompts=s.prompts, task_family=s.task_family, date=s.date)


def training_context(settings: Settings, outline: Outline) -> TrainingContext:
    """Static facts that the losses of training need."""
    outer = settings.outer
    return TrainingContext(
        topology=outline.topology,
        spec=outline.spec(remat=outer.remat == "layers"),
        latent_steps=settings.limits.latent_steps,
        on_policy=outer.on_policy,
        earlier_rounds=outer.earlier_rounds,
        token_mean=settings.inner.mean == "tokens",
    )
