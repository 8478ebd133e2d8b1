"""Rows from a user's own files (`tables.py` reads them); errors name the place.

Our own form of a row; `id`, `texts` and `meta` may be absent, a single text serves all rounds:

    {"id": "a1", "question": "...", "answer": "...", "meta": {"level": 2},
     "texts": {"planner": ["round 1", "round 2"], "solver": "all rounds"}}

The flat columns of the public training sets (`COLUMNS`); any other column goes into `meta`:

    {"question": "...", "plan": "...", "refined_plan": "...", "answer": "..."}
    {"question": "...", "deliberation_reflector": "...", "deliberation_toolcaller": "...", ...}

A JSON file holds a list of rows, at the top level or under a field (`data`, unless named); JSONL
and parquet files hold theirs at the top level. Names of fields may differ in capitals, blanks, `_`
and `-`; a null id, meta or text of a role counts as none.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.tasks.rows import Row
from rmas.tasks.tables import kind, nearest, records_of, renaming

COLUMNS = {
    "planner": ("plan",),
    "critic": ("refined_plan",),
    "solver": ("answer",),
    "math": ("hie_math_expert", "math_expert", "expert_math"),
    "code": ("hie_code_expert", "code_expert", "expert_code"),
    "science": ("hie_science_expert", "science_expert", "expert_science"),
    "summarizer": ("hie_summarizer", "summary", "answer"),
    "expert": ("distill_expert", "refined_plan", "expert_plan"),
    "learner": ("distill_learner", "answer", "learner_answer"),
    "reflector": ("deliberation_reflector", "answer"),
    "toolcaller": ("deliberation_toolcaller", "answer"),
}
"""Role -> columns of the flat form; the first that is not empty has the role's teacher text."""
# Roles that answer: the text of the first one is the answer of a row without one.
_LAST = ("solver", "summarizer", "learner", "toolcaller")
_FLAT = {name for names in COLUMNS.values() for name in names}
_OWN_FIELDS = ("id", "question", "answer", "texts", "meta")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_rows(content: bytes, path: str | Path, field: str | None = None) -> list[Row]:
    """Rows of a file's bytes; the suffix of `path` (.json or .jsonl) decides the format.

    Args:
        content: the bytes of the file.
        path: its name, for the format, for ids and for errors.
        field: the top-level field with the rows of a JSON file; None stands for `data` where the
            top level is an object.

    Raises:
        InputError: names the file, the line (JSONL) or index (JSON), the field and what is wrong.
    """
    path = Path(path)
    if path.suffix.lower() not in (".json", ".jsonl"):
        raise InputError(f"{path}: rows are read from .json or .jsonl files, not {path.suffix!r}")
    rows = list(parse_records(records_of(io.BytesIO(content), path, field), path.stem))
    if not rows:
        raise InputError(f"empty dataset: {path} has no rows; it needs at least one")
    return rows


def parse_records(located: Iterable[tuple[str, Any]], stem: str) -> Iterator[Row]:
    """Rows of `(place, record)` pairs; those without an id get ids as `STEM-000017`.

    Raises InputError as `parse_rows` does.
    """
    places: dict[str, str] = {}
    for index, (place, item) in enumerate(located):
        row = _parse_row(item, place, default_id=f"{stem}-{index:06d}")
        if row.id in places:
            raise InputError(
                f"{place}: field 'id' {row.id!r} is taken by {places[row.id]}; ids must differ"
            )
        places[row.id] = place
        yield row


def _parse_row(item: Any, place: str, default_id: str) -> Row:
    if not isinstance(item, dict):
        raise InputError(f"{place}: {kind(item)}; a row is an object with question and answer")
    item = _named(item)
    flat = sorted(_FLAT.intersection(item) - {"answer"})
    if flat and "texts" in item:
        raise InputError(f"{place}: fields 'texts' and {flat[0]!r} exclude each other; keep one")
    if flat:
        texts: dict[str, tuple[str, ...]] = {}
        for role, names in COLUMNS.items():
            given = [name for name in names if item.get(name) not in (None, "")]
            if given:
                texts[role] = (_text(item, given[0], place, number=given[0] == "answer"),)
        meta = {k: v for k, v in item.items() if k not in _FLAT | {"id", "question"}}
        last = [texts[role][0] for role in _LAST if role in texts]
        if "answer" not in item and last:
            item = item | {"answer": last[0]}
    else:
        unknown = [name for name in sorted(item) if name not in _OWN_FIELDS]
        missing = [name for name in ("question", "answer") if name not in item]
        if unknown:
            faults = [f"unknown {_fields(unknown)}"]
            faults += [f"missing {_fields(missing)}"] if missing else []
            columns = (
                f"a row has {', '.join(_OWN_FIELDS)}, or flat columns as question, plan, "
                "refined_plan, answer"
            )
            if not missing:
                raise InputError(f"{place}: {faults[0]}; put extra facts into meta: {columns}")
            renames = ", ".join(own for name in missing if (own := renaming(name, unknown)))
            renames = f" ({renames})" if renames else ""
            raise InputError(
                f"{place}: {', '.join(faults)}; rename your columns{renames}: {columns}; "
                "the files of a public benchmark are read by its name, with their folder as its "
                "source (evaluate.data=math500, evaluate.source=FOLDER)"
            )
        texts, meta = _texts(item.get("texts", {}), place), item.get("meta", {})
    if not isinstance(meta, dict):
        raise InputError(f"{place}: field 'meta' is {kind(meta)}; it must be an object")
    return Row(
        id=_text(item, "id", place, number=True) if "id" in item else default_id,
        question=_text(item, "question", place),
        answer=_text(item, "answer", place, number=True),
        texts=texts,
        meta=meta,
    )


def _named(item: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the names that are meant, and without null ones of those that may be absent."""
    renamed = {}
    for name in (*_OWN_FIELDS, *_FLAT):
        found = nearest(name, item)
        if found is not None and found != name and found not in (*_OWN_FIELDS, *_FLAT):
            renamed[found] = name
    named = {renamed.get(name, name): value for name, value in item.items()}
    return {k: v for k, v in named.items() if v is not None or k not in ("id", "texts", "meta")}


def _fields(names: list[str]) -> str:
    return f"field{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _texts(value: Any, place: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise InputError(
            f"{place}: field 'texts' is {kind(value)}; it must map a role to its text or texts"
        )
    texts: dict[str, tuple[str, ...]] = {}
    for role, items in value.items():
        if items is None:  # as parquet has for a role that another row has
            continue
        listed = {"": items} if isinstance(items, str) else None
        if isinstance(items, list) and items:
            listed = {f"[{index}]": item for index, item in enumerate(items)}
        if listed is None:
            raise InputError(
                f"{place}: field {f'texts.{role}'!r} is {kind(items)}; "
                f"it must be a text, or a list of texts, one per round"
            )
        named = {f"texts.{role}{suffix}": item for suffix, item in listed.items()}
        texts[_clean(role, f"{place}: the role name")] = tuple(
            _text(named, name, place) for name in named
        )
    return texts


def _text(item: Mapping[str, Any], name: str, place: str, number: bool = False) -> str:
    if name not in item:
        raise InputError(f"{place}: field {name!r} is missing; it must be a text")
    value = item[name]
    if number and isinstance(value, float) and value.is_integer():
        value = int(value)
    if number and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        also = " or a whole number" if number else ""
        raise InputError(f"{place}: field {name!r} is {kind(value)}; it must be a text{also}")
    return _clean(value, f"{place}: field {name!r}")


def _clean(value: str, place: str) -> str:
    """A text without blanks at its ends. Raises InputError where it is empty or not UTF-8."""
    if not value.strip():
        raise InputError(f"{place} is empty; it must be a text")
    if _SURROGATE.search(value):
        raise InputError(f"{place} has half of a surrogate pair; write whole characters")
    return value.strip()
