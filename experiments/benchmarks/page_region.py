"""A part of a page that a benchmark writes, between two comments."""

import dataclasses
from pathlib import Path

from rmas.errors import InputError
from rmas.files import atomic_write_bytes, open_file
from rmas.places import expanded


@dataclasses.dataclass(frozen=True)
class PageRegion:
    """What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a page."""

    path: Path
    name: str

    @classmethod
    def of(cls, flag: str, name: str) -> "PageRegion | None":
        """The region of the page that `--page` names, or None where it is empty.

        Raises `InputError` where the page lacks it.
        """
        found = cls(expanded(flag), name) if flag else None
        if found:
            found._parts()
        return found

    def replace(self, text: str) -> None:
        """Puts `text` there. Raises `InputError` where the page lacks the region."""
        before, after = self._parts()
        atomic_write_bytes(self.path, f"{before}\n\n{text.strip()}\n\n{after}".encode())

    def _parts(self) -> tuple[str, str]:
        """The page up to the first comment, and from the second on."""
        try:
            with open_file(self.path) as file:
                text = file.read().decode()
        except OSError as error:
            raise InputError(f"--page={self.path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"--page={self.path}: it is not text in UTF-8") from None
        begin, end = (f"<!-- {self.name}: {word} -->" for word in ("begin", "end"))
        before, found, rest = text.partition(begin)
        _, also, after = rest.partition(end)
        if not (found and also):
            raise InputError(f"--page={self.path}: it has no lines {begin} and {end}")
        return before + begin, end + after
