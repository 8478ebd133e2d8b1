"""The row of a dataset: a question, its gold answer, and the teacher text of each role."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rmas.errors import InputError


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
      id: unique in its dataset.
      question: the text of the question.
      answer: the gold answer.
      texts: role -> its teacher texts, one per round, or one for all rounds; empty for rows that
        are only evaluated.
      meta: further facts, as JSON values.
    """

    id: str
    question: str
    answer: str
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def text(self, role: str, round_index: int) -> str:
        """The teacher text of `role` in a round (from 0); later rounds use the last text.

        Raises:
            InputError: the row has no text for this role.
        """
        texts = self.texts.get(role, ())
        if not texts:
            known = ", ".join(sorted(self.texts)) or "none"
            raise InputError(
                f"row {self.id}: no teacher text for role {role!r} (roles with text: {known}); "
                f"training needs one text per round, or one for all"
            )
        return texts[min(round_index, len(texts) - 1)]


def to_record(row: Row) -> dict[str, str]:
    """A row as flat strings, the form in which a dataset stores it."""
    return {
        "id": row.id,
        "question": row.question,
        "answer": row.answer,
        "texts": json.dumps({role: list(texts) for role, texts in row.texts.items()}),
        "meta": json.dumps(dict(row.meta)),
    }


def from_record(record: Mapping[str, str | bytes]) -> Row:
    """The inverse of `to_record`; text may be given as UTF-8 bytes, as it is stored."""
    plain = {
        key: value.decode() if isinstance(value, bytes) else value for key, value in record.items()
    }
    texts = {role: tuple(texts) for role, texts in json.loads(plain["texts"]).items()}
    return Row(
        plain["id"], plain["question"], plain["answer"], texts, meta=json.loads(plain["meta"])
    )
