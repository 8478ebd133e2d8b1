"""Makes the reference pages when the site is built, from the code: nothing there is kept by hand.

`<!-- settings -->` in a page becomes the tables of all settings, `<!-- api: rmas.system -->` the
documentation of each module of that package, and `<!-- api: rmas -->` the list of public names.
"""

import inspect
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SETTINGS = "<!-- settings -->"
API = re.compile(r"<!-- api: ([\w.]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in the marks of a page."""
    if SETTINGS in markdown:
        markdown = markdown.replace(SETTINGS, settings_reference())
    return API.sub(lambda match: api_reference(match[1]), markdown)


def api_reference(package: str) -> str:
    """Instructions for mkdocstrings, one for each module of a package; for `rmas` a table."""
    if package == "rmas":
        return front_door()
    folder = ROOT / package.replace(".", "/")
    files = folder.glob("*.py") if folder.is_dir() else ()
    names = [f"{package}.{file.stem}" for file in sorted(files) if file.stem != "__init__"]
    return "\n\n".join(f"::: {name}" for name in names or [package])


def front_door() -> str:
    """The public names of `rmas` with the first line of their documentation."""
    import rmas

    lines = ["| name | what it is |", "| --- | --- |"]
    for name in rmas.__all__:
        found = getattr(rmas, name)
        first = inspect.cleandoc(found.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        home = f"{found.__module__}.{name}"
        lines.append(f"| [`rmas.{name}`][{home}] | {first} |")
    return "\n".join(lines)


def settings_reference() -> str:
    """All fields of `rmas.Settings` as Markdown: a table for each section."""
    from rmas.experiment import Settings
    from rmas.options import Described, Options, described, summary_of

    sections: dict[str, type[Options]] = {"": Settings}
    tables: dict[str, list[Described]] = {"": []}
    for field in described(Settings):
        if field.section is not None:
            sections[field.name], tables[field.name] = field.section, []
        else:
            tables[field.name.rpartition(".")[0]].append(field)
    lines: list[str] = []
    for name, section in sections.items():
        lines += [f"## `{name}`" if name else "## Top level", "", summary_of(section), ""]
        lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        for field in tables[name]:
            kind = ", ".join(filter(None, [field.kind, field.unit, field.bounds]))
            cells = (f"`{field.name}`", kind, f"`{field.default!r}`", field.help)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)
