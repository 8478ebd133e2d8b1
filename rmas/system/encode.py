"""From prompt templates to token ids: chat rendering, slots, and data that stays data.

The chat template is the tokenizer's own. Slots are split out of the rendered text and the
pieces tokenized separately, without special tokens, as the release does. Question text is
data: where it holds a control token of the tokenizer, that text is tokenized in pieces that
cannot be read as one.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from rmas.errors import InputError
from rmas.system.prompts import Field, Part, Slot

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""How tokenizers with byte fallback write a byte that no other token covers."""
Encoded = tuple[tuple[int, ...] | Slot, ...]
"""A prompt as runs of token ids and slots."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChatTokenizer:
    """A Hugging Face tokenizer with what chats need.

    Attributes:
      tokenizer: a fast tokenizer with a chat template.
      date: the date given to templates that print one.
      where: its folder, for errors.
    """

    tokenizer: Any
    date: str
    where: str

    def __post_init__(self) -> None:
        if self.tokenizer.chat_template is None:
            raise InputError(f"{self.where}: the tokenizer has no chat template")

    def render(self, system: str, user: str) -> str:
        """The chat as text up to where the assistant begins, thinking off.

        A template that refuses a system message gets it in front of the user's.
        """
        turn = {"role": "user", "content": user}
        if system:
            try:
                return self._apply([{"role": "system", "content": system}, turn])
            except jinja2.TemplateError:
                turn["content"] = f"{system}\n\n{user}"
        try:
            return self._apply([turn])
        except jinja2.TemplateError as e:
            raise InputError(f"{self.where}: the chat template fails: {e}") from e

    def _apply(self, chat: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string=self.date,
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of trusted text; control tokens count as such."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def data_ids(self, text: str) -> list[int]:
        """Token ids of untrusted text, in which nothing is a control token."""
        return [i for i, _, _ in self.data_spans(text)]

    def data_spans(self, text: str) -> list[tuple[int, int, int]]:
        """Tokens of untrusted text with their place in it: (id, start, end), in characters."""
        spans, at = [], 0
        for piece in self._harmless(text):
            found = self._split(piece, at)
            if not self._control_ids.isdisjoint(i for i, _, _ in found):
                # A normalizer made the control token; from single characters it cannot.
                found = [s for n, c in enumerate(piece, at) for s in self._split(c, n)]
            spans += found
            at += len(piece)
        return spans

    def _split(self, text: str, at: int) -> list[tuple[int, int, int]]:
        out = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        pairs = zip(out["input_ids"], out["offset_mapping"], strict=True)
        return [(i, a + at, b + at) for i, (a, b) in pairs]

    def has_control(self, text: str) -> bool:
        """Whether the tokenizer would find one of its control tokens in a text."""
        return bool(self._control.search(text)) or not self._control_ids.isdisjoint(self.ids(text))

    @functools.cached_property
    def close(self) -> tuple[int, ...]:
        """The ids that the template puts after an assistant's text; the eos token if none."""
        mark = _unused_mark("")
        chat = [{"role": "user", "content": ""}, {"role": "assistant", "content": mark}]
        try:
            rendered = self.tokenizer.apply_chat_template(
                chat, tokenize=False, enable_thinking=False, date_string=self.date
            )
        except jinja2.TemplateError as e:
            raise InputError(f"{self.where}: the chat template fails: {e}") from e
        _, found, after = rendered.rpartition(mark)
        closing = tuple(self.ids(after)) if found else ()
        return closing or (self.tokenizer.eos_token_id,)

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - a tokenizer lives as long as its run
    def text_ids(self, text: str) -> tuple[int, ...]:
        """A role's text as the model would write it, closing tokens included."""
        return (*self.data_ids(text), *self.close)

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        """Ids of added tokens, without blanks, single characters and bytes: these are text."""
        added = self.tokenizer.added_tokens_decoder.items()
        return {
            t.content: i
            for i, t in added
            if len(t.content.replace("\u2581", " ").strip()) > 1 and not _BYTE.fullmatch(t.content)
        }

    @functools.cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self._controls.values()) - {self.tokenizer.unk_token_id}

    @functools.cached_property
    def _control(self) -> re.Pattern[str]:
        ordered = sorted(self._controls, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")

    def _harmless(self, text: str) -> list[str]:
        """The text cut after the first character of each control token in it."""
        cuts, match = [0], self._control.search(text)
        while match:
            cuts.append(match.start() + 1)
            match = self._control.search(text, cuts[-1])
        pieces = [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
        return [piece for piece in pieces if piece]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without control tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def encode(self, system: str, parts: tuple[Part, ...], values: Mapping[str, str]) -> Encoded:
        """Fills the fields of a template and tokenizes it around its slots.

        Raises `InputError` when a field of the template has no value.
        """
        for part in parts:
            if isinstance(part, Field) and part.name not in values:
                raise InputError(f"the prompt asks for {{{part.name}}}, which the task lacks")
        hostile = any(self.has_control(v) for v in values.values())
        mark = _unused_mark("".join(values.values()))
        user, holes = "", []
        for part in parts:
            if isinstance(part, Slot) or (hostile and isinstance(part, Field)):
                user += mark
                holes.append(part)
            else:
                user += values[part.name] if isinstance(part, Field) else part
        pieces = self.render(system, user).split(mark)
        if len(pieces) != len(holes) + 1:
            raise InputError(f"{self.where}: the chat template repeats or drops the user's text")
        encoded: list[tuple[int, ...] | Slot] = [tuple(self.ids(pieces[0]))]
        for hole, piece in zip(holes, pieces[1:], strict=True):
            if isinstance(hole, Slot):
                encoded.append(hole)
            else:
                encoded.append(tuple(self.data_ids(values[hole.name])))
            encoded.append(tuple(self.ids(piece)))
        return tuple(run for run in encoded if run != ())


def fill(encoded: Encoded, message_ids: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    """A prompt as token ids, with `message_ids(source)` in its slots: text exchange."""
    out: list[int] = []
    for run in encoded:
        out += message_ids(run.source) if isinstance(run, Slot) else run
    return tuple(out)


def _unused_mark(data: str) -> str:
    """A text that stands for a slot, made of private-use characters, and not in `data`."""
    n = 0
    while f"\ue000{n}\ue001" in data:
        n += 1
    return f"\ue000{n}\ue001"
