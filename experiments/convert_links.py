"""Converts trained links between this project's form and the released one; needs no PyTorch.

  python -m experiments.convert_links --style=STYLE --root=DIR --task_family=math \\
      --prompts=FILE.json --out=LINKS
  python -m experiments.convert_links --style=STYLE --links=LINKS --task_family=math --out=ROOT

The first reads a system in the released layout and writes `links.safetensors` and `manifest.json`
(form, topology, prompts, base models and their revisions). The second writes `ROOT/<agent>/` and
`ROOT/outer/` with the files and manifests that the PyTorch release loads; links of another task
that are there stay, and none is overwritten.
"""

from absl import flags

from experiments import app
from rmas.errors import InputError
from rmas.places import expanded
from rmas.system.convert import from_released, to_released
from rmas.system.released import find_style
from rmas.system.styles import STYLES

_STYLE = flags.DEFINE_enum("style", None, sorted(STYLES), "Released style.", required=True)
_ROOT = flags.DEFINE_string("root", None, "Folder of a released system, to read.")
_LINKS = flags.DEFINE_string("links", None, "Folder of links in this project's form, to read.")
_TASK_FAMILY = flags.DEFINE_string("task_family", "math", "Task family that the links are for.")
_PROMPTS = flags.DEFINE_string(
    "prompts", None, "Prompt set that the links of --root were trained with (JSON file)."
)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)


def main(_: list[str]) -> None:
    """Converts links in the one direction or the other."""
    style, out = find_style(_STYLE.value), expanded(_OUT.value)
    if (_ROOT.value is None) == (_LINKS.value is None):
        raise InputError("give --root (a released system) or --links (this project's), one of them")
    if _LINKS.value is not None:
        to_released(style, expanded(_LINKS.value), _TASK_FAMILY.value, out)
    elif _PROMPTS.value is None:
        raise InputError(
            "--prompts is missing: which prompt set were these links trained with? The release's "
            "is made by python -m experiments.import_prompts --release=CLONE --out=FILE"
        )
    else:
        from_released(style, expanded(_ROOT.value), _TASK_FAMILY.value, _PROMPTS.value, out)
    print(f"links: {out}")


if __name__ == "__main__":
    app.run(main)
