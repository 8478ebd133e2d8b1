"""Finds the files of a public dataset, in a folder or on the Hub."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rmas.errors import InputError
from rmas.places import expanded
from rmas.tasks.benchmarks import Source
from rmas.tasks.tables import SUFFIXES, bare

_PART = re.compile(r"(.+)-(\d{1,5})-of-(\d{1,5})")  # the stem of a file that is one of several


@dataclass(frozen=True)
class Files:
    """The files of a dataset.

    Attributes:
      splits: split -> files.
      origin: `owner/name@commit` of the Hub, or `local files`.
    """

    splits: Mapping[str, tuple[Path, ...]]
    origin: str


def locate(name: str, source: Source, at: str | os.PathLike | None = None) -> Files:
    """The files of the dataset `name`.

    `at` is a folder that holds them under their public names, with or without the folders of the
    repository, or a file for each split that is called by the split, by the dataset (as in
    `medqa.json`), or by both; splits that it lacks are left out. It may be such a file itself.
    Without it the files are downloaded, or found in the Hub's cache.

    Raises InputError, naming what is missing and where to get it.
    """
    if at is None:
        root, commit = _download(name, source)
        return Files(_in_folder(root, name, source), f"{source.repo}@{commit}")
    root = expanded(at)
    if os.path.isfile(root):
        split = _split_of(root, name, source)
        _check_parts([root])
        return Files({split: (root,)}, "local files")
    if not os.path.isdir(root):
        raise InputError(f"{str(root)[:300]} is not a folder; name one with the files of {name}")
    splits = _in_folder(root, name, source)
    if not splits:
        wanted = ", ".join(f"{split}{suffix}" for split in source.files for suffix in SUFFIXES)
        there = [path.name for path in _data_files(root)]
        hub = f"they are in the dataset {source.repo} of the Hugging Face Hub"
        raise InputError(
            f"{root} has no files of {name} ({_names(source)}, or {wanted}); "
            f"{hub if source.repo else source.access}"
            + (f"; if {' or '.join(there[:4])} has its rows, rename it" if there else "")
        )
    return Files(splits, "local files")


def _split_of(file: Path, name: str, source: Source) -> str:
    """The split that a file is of: the only one, or the one that its name tells."""
    named = [split for split in source.files if split in file.stem.casefold()]
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{file} is not read as rows of {name}: its name must end in one of "
            f"{', '.join(SUFFIXES)}"
        )
    found = list(source.files) if len(source.files) == 1 else named
    if len(found) != 1:
        raise InputError(
            f"{file} may hold any of {', '.join(source.files)} of {name}; call it by one of them, "
            f"as {next(iter(source.files))}{file.suffix}"
        )
    return found[0]


def _in_folder(root: Path, name: str, source: Source) -> dict[str, tuple[Path, ...]]:
    splits = {}
    for split, patterns in source.files.items():
        found = [path for pattern in patterns for path in _matching(root, pattern)]
        if not found:
            flat = [PurePosixPath(pattern).name for pattern in patterns]
            found = [path for pattern in flat for path in _matching(root, pattern)]
        if not found:
            found = _by_name(root, name, source, split)
        if found:
            splits[split] = tuple(dict.fromkeys(found))
            _check_parts(splits[split])
    return splits


def _check_parts(paths: Iterable[Path]) -> None:
    """Refuses files of which each says that it is one of N, where not all N are there."""
    sets: dict[str, dict[int, set[int]]] = {}
    for path in paths:
        if part := _PART.fullmatch(path.stem):
            called = f"{path.with_name(part[1])}-*{path.suffix}"
            sets.setdefault(called, {}).setdefault(int(part[3]), set()).add(int(part[2]))
    for called, sizes in sets.items():
        if len(sizes) > 1:
            several = " and ".join(str(size) for size in sizes)
            raise InputError(f"{called} are parts of {several} files; keep those of one division")
        ((size, there),) = sizes.items()
        first = 0 if 0 in there or size not in there else 1
        missing = [n for n in range(first, first + size) if n not in there]
        if missing:
            listed = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise InputError(
                f"{called}: by their names there are {size} files, of which number {listed} is "
                "missing; copy it there, too, and name their folder"
            )


def _matching(root: Path, pattern: str) -> list[Path]:
    """The files of a pattern; a link to nowhere is one, so that its reader names it."""
    return sorted(path for path in root.glob(pattern)) or (
        [root / pattern] if os.path.lexists(root / pattern) else []
    )


def _by_name(root: Path, name: str, source: Source, split: str) -> list[Path]:
    """Files that are called by a split or its dataset: one, or the numbered parts of one."""
    datasets = {bare(name), bare(source.repo.rpartition("/")[2])} - {""}
    names = {bare(split)} | {own + bare(split) for own in datasets}
    if len(source.files) == 1:
        names |= datasets
    stems: dict[str, list[Path]] = {}
    for path in _data_files(root):
        part = _PART.fullmatch(path.stem)
        if bare(part[1] if part else path.stem) in names:
            key = f"{path.parent}/{part[1] if part else path.stem}{path.suffix}"
            stems.setdefault(key, []).append(path)
    if len(stems) > 1:
        several = " and ".join(str(paths[0].relative_to(root)) for paths in stems.values())
        raise InputError(
            f"{root}: {several} could both be the {split} rows; name one of them as source"
        )
    return next(iter(stems.values()), [])


def _data_files(root: Path) -> list[Path]:
    """What a folder, and those in it, have under a name of a file that rows are read from.

    That it is no file (a broken link, a pipe, a folder) its reader tells.
    """
    found = sorted([*root.glob("*"), *root.glob("*/*")])
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def _download(name: str, source: Source) -> tuple[Path, str]:
    """The folder of the downloaded files, and their commit."""
    if not source.repo:
        raise InputError(
            f"{name} is not on the Hugging Face Hub: {source.access}, and name as source its "
            f"folder, which has {_names(source)}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    patterns = [pattern for group in source.files.values() for pattern in group]
    dataset = f"{name}: the dataset {source.repo} of the Hugging Face Hub"
    way_out = f"download {_names(source)} elsewhere and name their folder as source"
    try:
        folder = snapshot_download(
            source.repo, repo_type="dataset", revision=source.revision, allow_patterns=patterns
        )
    except GatedRepoError:
        raise InputError(f"{dataset} is gated: {source.access or 'ask for access'}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason"
        gated = f" (it is gated: {source.access})" if source.access else ""
        raise InputError(
            f"{dataset} cannot be downloaded ({type(error).__name__}: {reason}); {way_out}{gated}"
        ) from None
    path = Path(folder)
    if not _in_folder(path, name, source):
        raise InputError(f"{dataset} has no {_names(source)}; {way_out}")
    return path, path.name


def _names(source: Source) -> str:
    return ", ".join(pattern for group in source.files.values() for pattern in group)
