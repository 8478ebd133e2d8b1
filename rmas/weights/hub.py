"""Finds model folders by name: a local folder, or a snapshot from the Hugging Face Hub.

Only files that are needed are downloaded, only from the top level of a repository, and never code.
The files of a snapshot in the client's cache (`$HF_HUB_CACHE`) are symbolic links to blobs.
"""

import dataclasses
import difflib
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rmas.errors import InputError
from rmas.models.unsupported import format_of
from rmas.places import expanded

AGENT_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*.json", "tokenizer*.model", "vocab.*", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template*"),
    *("adapter*.pt", "adapter_config.json", "innerlink_config.json"),
)
"""Patterns of the files of an agent: its model, tokenizer and inner link."""
LINK_FILES = ("*.pt", "outerlink_config.json")
"""Patterns of the files of outer links."""
NEVER = ("*/*", "*.py", "*.bin", "consolidated*")
"""Files that are never downloaded; `consolidated*` repeats the weights in another layout."""

_REPO = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]*/\w[\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w.+-][\w.+/-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Located:
    """A folder that `resolve` found.

    Attributes:
      path: the folder.
      source: the name that it was found by.
      revision: the commit hash of a snapshot; None for a local folder.
    """

    path: Path
    source: str
    revision: str | None


def resolve(
    source: str, revision: str | None = None, patterns: Sequence[str] = AGENT_FILES
) -> Located:
    """Finds a folder, and downloads it if needed.

    Args:
      source: a local folder, else a Hub id, `owner/name` or `owner/name@revision`. A local folder
        takes precedence, whatever the revision.
      revision: a branch, tag or commit hash, instead of `@revision`; the default is the main
        branch. It is resolved to a commit before files are downloaded. If the Hub cannot be
        reached, the commit that it was last resolved to and the files in the cache are used.
      patterns: which files to download (`*` as in a shell); those in the cache are not downloaded
        again.

    Raises:
      InputError: `source` is neither a folder nor a Hub id; there is no such repository or
        revision; access is denied; or the Hub cannot be reached and the cache lacks files. The
        message says what to do.
    """
    folder = expanded(source)
    if source and os.path.isdir(folder):
        return Located(folder, source, None)
    repo, at, named = source.partition("@")
    if os.path.isfile(folder) or not _REPO.fullmatch(repo):
        fact = "is a file" if os.path.isfile(folder) else f"is not a folder{_similar(folder)}"
        if os.path.isfile(folder) and (known := format_of(folder.name)) is not None:
            what, way = known
            fact = f"is a file with {what}, which are not read; {way}"
        raise InputError(f"{source!r} {fact}; expected a folder or a Hub id owner/name[@revision]")
    if at and revision and named != revision:
        raise InputError(f"{source}: the name has revision {named!r}, but revision={revision!r}")
    revision = named if at else revision
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"{source}: {revision!r} is not a branch, tag or commit hash")

    try:
        path = _download(repo, revision, patterns)
    # The errors of the client, its HTTP library and its transfer library have no common base.
    except Exception as error:
        why = _why(error, repo, revision, folder.absolute())
        here = f"no folder {folder.absolute()}{_similar(folder)}"
        raise InputError(f"{source}: {here}, and {why}") from error
    if not path.is_dir():
        raise InputError(f"{source}: the repository has none of {', '.join(patterns)}")
    return Located(path, source, path.name)


def _similar(folder: Path) -> str:
    """A hint that names a folder beside a missing one with a similar name; empty if none has."""
    beside = folder.parent
    try:
        names = [own.name for own in beside.iterdir() if own.is_dir()]
    except OSError:  # there is no such folder, or it cannot be listed
        return ""
    near = difflib.get_close_matches(folder.name, names, n=1)
    return f" (did you mean {beside / near[0]}?)" if near else ""


def _download(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """Progress on a terminal only; one of the client's bars is shown everywhere."""

        def __init__(self, *args, **options):
            options.setdefault("disable", None)  # None means for tqdm: unless on a terminal
            super().__init__(*args, **options)

    return Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(NEVER),
            tqdm_class=Bar,
        )
    )


def _why(error: Exception, repo: str, revision: str | None, folder: Path) -> str:
    """Why the files could not be downloaded, and what to do."""
    from huggingface_hub import constants, errors

    # The client raises it where it finds the files neither on the Hub nor in its cache.
    nowhere = isinstance(error, errors.LocalEntryNotFoundError)
    cause = (error.__cause__ or error) if nowhere else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    login = "log in with `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo} and {login}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub has no model {repo}: check the name, or {login} if it is private"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the model {repo} on the Hub has no revision {revision!r}"
    if status in (401, 403):
        return f"the Hub denies access to {repo} (status {status}): {login}"

    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}".rstrip(": ")
    if isinstance(cause, errors.OfflineModeIsEnabled):
        fact = "HF_HUB_OFFLINE is set and the download cache lacks its files"
    elif nowhere:
        reason = f"it answered {status}" if status else reason
        where = f"{constants.ENDPOINT} cannot be reached ({reason})"
        fact = f"{where} and the download cache lacks its files"
    else:
        fact = f"the download failed ({reason})"
    pinned = ("--revision", revision) if revision else ()
    command = shlex.join(["hf", "download", repo, *pinned, "--local-dir", str(folder)])
    return f"{fact}; download the folder on a machine with network access: {command}"
