"""Finds the files of a public dataset, in a folder or on the Hub."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rmas.errors import InputError
from rmas.tasks.benchmarks import Source
from rmas.tasks.tables import SUFFIXES


@dataclass(frozen=True)
class Files:
    """The files of a dataset.

    Attributes:
      splits: split -> files.
      origin: `owner/name@commit` of the Hub, or `local files`.
    """

    splits: Mapping[str, tuple[Path, ...]]
    origin: str


def locate(name: str, source: Source, folder: str | os.PathLike | None = None) -> Files:
    """The files of the dataset `name`.

    A `folder` holds them under their public names, with or without the folders of the repository,
    or a file `SPLIT.json`, `.jsonl`, `.csv` or `.parquet` for each split; splits that it lacks are
    left out. Without one they are downloaded, or found in the Hub's cache.

    Raises InputError, naming what is missing and where to get it.
    """
    if folder is not None:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise InputError(f"{root} is not a folder; name one with the files of {name}")
        splits = _in_folder(root, source)
        if not splits:
            where = f"they are in the dataset {source.repo} of the Hugging Face Hub"
            raise InputError(
                f"{root} has no files of {name} ({_names(source)}, or SPLIT.jsonl); "
                f"{where if source.repo else source.access}"
            )
        return Files(splits, "local files")
    root, commit = _download(name, source)
    return Files(_in_folder(root, source), f"{source.repo}@{commit}")


def _in_folder(root: Path, source: Source) -> dict[str, tuple[Path, ...]]:
    splits = {}
    for split, patterns in source.files.items():
        found = [path for pattern in patterns for path in sorted(root.glob(pattern))]
        if not found:
            flat = [PurePosixPath(pattern).name for pattern in patterns]
            found = [path for pattern in flat for path in sorted(root.glob(pattern))]
        if not found:
            found = [path for suffix in SUFFIXES if (path := root / f"{split}{suffix}").is_file()]
        if found:
            splits[split] = tuple(dict.fromkeys(found))
    return splits


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
    if not _in_folder(path, source):
        raise InputError(f"{dataset} has no {_names(source)}; {way_out}")
    return path, path.name


def _names(source: Source) -> str:
    return ", ".join(pattern for group in source.files.values() for pattern in group)
