"""From prompt templates to token ids: chat rendering, slots, and data that stays data.

The chat template is the tokenizer's own; `chat_template.py` renders it. Slots are split out of the
rendered text and the pieces tokenized separately, without special tokens, as the release does.
Question text is data: where it holds a control token of the tokenizer, that text is tokenized in
pieces that cannot be read as one.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rmas.errors import InputError
from rmas.system.chat_template import ChatTemplate, Message, TemplateError
from rmas.system.prompts import Field, Part, Slot

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""How tokenizers with byte fallback write a byte that no other token covers."""
Encoded = tuple[tuple[int, ...] | Slot, ...]
"""A prompt as runs of token ids and slots."""


@dataclasses.dataclass(frozen=True)
class _Form:
    """How a chat is given to a template.

    Attributes:
      parts: the roles whose messages have a list of parts as their content, not a text.
      folded: the system text stands in front of the user's, not in a message of its own.
    """

    parts: frozenset[str]
    folded: bool = False

    def messages(self, system: str, user: str, assistant: str = "") -> list[Message]:
        """A chat; empty texts have no message."""
        if self.folded:
            system, user = "", f"{system}\n\n{user}"
        texts = {"system": system, "user": user, "assistant": assistant}
        return [
            {
                "role": role,
                "content": [{"type": "text", "text": text}] if role in self.parts else text,
            }
            for role, text in texts.items()
            if text or role == "user"
        ]


def _forms(*roles: str, folded: bool = False) -> tuple[_Form, ...]:
    """Texts for all roles, parts for all, and then texts for some and parts for the others."""
    mixed = (some for n in range(1, len(roles)) for some in itertools.combinations(roles, n))
    return tuple(_Form(frozenset(parts), folded) for parts in ((), roles, *mixed))


_ALONE, _WITH_ASSISTANT = _forms("user"), _forms("user", "assistant")
_WITH_SYSTEM = (*_forms("system", "user"), *_forms("user", folded=True))
_UNITS = 99
_USER, _OTHER = "\ue0001\ue001" * _UNITS, "\ue0002\ue001" * _UNITS
"""Texts that no template writes of its own accord."""


@dataclasses.dataclass(frozen=True, eq=False)
class ChatTokenizer:
    """A Hugging Face tokenizer with what chats need.

    Attributes:
      tokenizer: a fast tokenizer with a chat template.
      date: the date given to templates that print one.
      where: the agent and its folder, for errors.
      template_file: the file that the template comes from, for errors; may be empty.
      symbols: further control tokens, which the tokenizer does not list as added, with their ids.

    Raises `InputError` if there is no template, or none of several is the default.
    """

    tokenizer: Any
    date: str
    where: str
    template_file: str = ""
    symbols: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self._template

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        text = self.tokenizer.chat_template
        if isinstance(text, Mapping):
            if "default" not in text:
                raise InputError(
                    f"{self.where}: the tokenizer has chat templates with the names "
                    f"{', '.join(sorted(map(str, text)))}, and none is named 'default'; give the "
                    "one to use that name, or write it into chat_template.jinja"
                )
            text = text["default"]
        if text is None:
            raise InputError(f"{self.where}: the tokenizer has no chat template")
        if not isinstance(text, str):
            raise InputError(
                f"{self.where}: the chat template is no text; write it into chat_template.jinja"
            )
        special = self.tokenizer.special_tokens_map.items()
        tokens = {k: [*map(str, v)] if isinstance(v, list | tuple) else str(v) for k, v in special}
        variables = {**tokens, "enable_thinking": False}
        return ChatTemplate(text, variables, self.date, self.where, self.template_file)

    def render(self, system: str, user: str) -> str:
        """The chat as text up to where the assistant begins, thinking off.

        A template that refuses a system message, or leaves it out, gets it in front of the
        user's; one that reads the parts of messages, or of those of some roles, gets parts.
        Raises `InputError` for a template that fails, or does not write the user's text once.
        """
        form = self._form_with_system if system else self._form_alone
        messages = form.messages(system, user)
        try:
            return self._template.render(messages, opened=True)
        except TemplateError as e:
            raise InputError(str(e)) from e

    @functools.cached_property
    def _form_alone(self) -> _Form:
        return self._find_form("", _ALONE)

    @functools.cached_property
    def _form_with_system(self) -> _Form:
        return self._find_form(_OTHER, _WITH_SYSTEM)

    def _find_form(self, system: str, forms: Sequence[_Form]) -> _Form:
        """The first form of a chat in which the template writes all texts, the user's once."""

        def whole(form: _Form, text: str) -> bool:
            once = (_USER, system) if form.folded else (_USER,)
            parts = all(text.count(own[: len(own) // _UNITS]) == _UNITS for own in once)
            return system in text and _USER in text and parts

        try:
            found = self._first(forms, whole, system, _USER)
        except TemplateError as e:
            raise InputError(str(e)) from e
        if found is None:
            raise self._lossy()
        return found[0]

    def _first(
        self,
        forms: Sequence[_Form],
        fits: Callable[[_Form, str], bool],
        *texts: str,
        opened: bool = True,
    ) -> tuple[_Form, str] | None:
        """The first form of a chat that renders to a text that fits, with it; None if none does.

        Raises `TemplateError` where none fits and the template fails for messages that are texts.
        """
        error: TemplateError | None = None
        for form in forms:
            try:
                text = self._template.render(form.messages(*texts), opened)
            except TemplateError as e:
                error = error if form.parts else e
                continue
            if fits(form, text):
                return form, text
            error = error if form.parts else None
        if error:
            raise error
        return None

    def _lossy(self) -> InputError:
        return InputError(
            f"{self.where}: the chat template repeats or drops the user's text; put one that "
            "writes every message once into chat_template.jinja"
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
        try:
            closing = tuple(self.ids(self._after_assistant()))
        except TemplateError as e:
            raise InputError(str(e)) from e
        return closing or (self.tokenizer.eos_token_id,)

    @functools.cached_property
    def closing_id(self) -> int | None:
        """The first control token that the template puts after an assistant's text.

        None where the template has no assistant, or closes its turn with plain text alone.
        """
        try:
            after = self._after_assistant()
        except TemplateError:
            return None
        found = (self._controls[match.group()] for match in self._control.finditer(after))
        return next((own for own in found if own in self._control_ids), None)

    def _after_assistant(self) -> str:
        found = self._first(
            _WITH_ASSISTANT, lambda _, text: _OTHER in text, "", _USER, _OTHER, opened=False
        )
        return found[1].rpartition(_OTHER)[2] if found else ""

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - a tokenizer lives as long as its run
    def text_ids(self, text: str) -> tuple[int, ...]:
        """A role's text as the model would write it, closing tokens included."""
        return (*self.data_ids(text), *self.close)

    def plain_tokens(self) -> dict[str, int]:
        """The ids of all tokens that can be in data, by their text: no control tokens."""
        controls = set(self._controls.values())
        vocabulary = self.tokenizer.get_vocab().items()
        return {text: i for text, i in vocabulary if i not in controls}

    @functools.cached_property
    def _controls(self) -> dict[str, int]:
        """Ids of added tokens, without blanks, single characters and bytes: these are text."""
        added = {t.content: i for i, t in self.tokenizer.added_tokens_decoder.items()}
        return {
            text: i
            for text, i in (added | dict(self.symbols)).items()
            if len(text.replace("\u2581", " ").strip()) > 1 and not _BYTE.fullmatch(text)
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
        """The text of generated ids, without special tokens and the one that closes a turn."""
        # The latter need not be marked as special.
        return self.tokenizer.decode(
            [i for i in ids if i != self.closing_id], skip_special_tokens=True
        )

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
            raise self._lossy()
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
