"""The packaged tiny agents in the released layout, with random links: needs no PyTorch."""

import shutil
from pathlib import Path

import jax

import rmas
from rmas.links import LinkSpec, init_links
from rmas.models import read_spec
from rmas.shapes import Params
from rmas.system.released import layout_of
from rmas.system.styles import SEQUENTIAL, STYLES
from rmas.weights.released_export import write_released

TINY = Path(rmas.__file__).parent / "tiny"
STYLE = STYLES["sequential_light"]


def make_links(seed: int = 0) -> Params:
    """Random links between the tiny agents."""
    widths = tuple((a, read_spec(TINY / a).d_model) for a in SEQUENTIAL.agents)
    return init_links(LinkSpec("ln_res", widths, SEQUENTIAL.link_edges), jax.random.key(seed))


def make_root(root: Path, task: str = "math") -> Params:
    """Writes the system below `root`; returns its links."""
    for agent in SEQUENTIAL.agents:
        shutil.copytree(TINY / agent, root / agent)
    links = make_links()
    write_released(root, layout_of(STYLE), links, "ln_res", task)
    return links
