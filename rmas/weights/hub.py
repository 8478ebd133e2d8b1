"""Model folders by name: a local folder, or a pinned snapshot from the Hugging Face Hub.

Only files that are read are downloaded, from the top of a repository alone, and never code. A
snapshot lies in the client's cache (`$HF_HUB_CACHE`) as links to blobs, so a check that files
stay in their folder must look at names, not at where links lead.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rmas.errors import InputError

AGENT_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*.json", "tokenizer*.model", "vocab.*", "merges.txt", "added_tokens.json"),
    *("special_tokens_map.json", "chat_template*"),
    *("adapter*.pt", "adapter_config.json", "innerlink_config.json"),
)
"""A model, its tokenizer, and inner links."""
LINK_FILES = ("*.pt", "outerlink_config.json")
"""Outer links."""
NEVER = ("*/*", "*.py", "*.bin", "consolidated*")
"""Not even where a pattern matches; `consolidated*` repeats the weights in another layout."""

_REPO = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]*/\w[\w.-]*", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w.+-][\w.+/-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Located:
    """A folder of files and where it came from.

    `source` is the name that was asked for; `revision` is the commit hash of the snapshot, or
    None for a local folder.
    """

    path: Path
    source: str
    revision: str | None


def resolve(
    source: str, revision: str | None = None, patterns: Sequence[str] = AGENT_FILES
) -> Located:
    """Finds the folder of `source`, downloading it if need be.

    A local folder always wins, whatever the revision. Else `source` is a Hub id, `owner/name` or
    `owner/name@revision`. A branch or tag (by default the main branch) is resolved to a commit
    first, and all files are of that commit; where the Hub cannot be reached, the commit that it
    last named and the files in the cache are used. A repeated call fetches only missing files.

    Args:
      revision: a branch, tag or commit hash, instead of `@revision`.
      patterns: which file names to fetch (`*` as in a shell).

    Raises:
      InputError: the name is no folder and no Hub id; no such repository or revision; access is
        refused; or the Hub cannot be reached and the cache lacks files. It says what to do.
    """
    folder = Path(os.path.expanduser(source))
    if source and folder.is_dir():
        return Located(folder, source, None)
    repo, at, named = source.partition("@")
    if folder.is_file() or not _REPO.fullmatch(repo):
        fact = "is a file" if folder.is_file() else "is no folder"
        raise InputError(f"{source!r} {fact}; wanted a folder or a Hub id owner/name[@revision]")
    if at and revision and named != revision:
        raise InputError(f"{source}: the name asks for {named!r}, but revision is {revision!r}")
    revision = named if at else revision
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"{source}: {revision!r} is no branch, tag or commit hash")

    try:
        path = _download(repo, revision, patterns)
    # The client's errors, its HTTP library's and its transfer library's have no base in common.
    except Exception as error:
        why = _why(error, repo, revision, folder.absolute())
        raise InputError(f"{source}: no folder {folder.absolute()}, and {why}") from error
    if not path.is_dir():
        raise InputError(f"{source}: the repository has none of {', '.join(patterns)}")
    return Located(path, source, path.name)


def _download(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """Progress on a terminal alone; the client shows one of its bars everywhere."""

        def __init__(self, *args, **options):
            options.setdefault("disable", None)  # for tqdm: where there is no terminal
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
    """Why the Hub did not give the files, and what would help."""
    from huggingface_hub import constants, errors

    # The client's way of saying that neither the Hub nor its cache has them.
    nowhere = isinstance(error, errors.LocalEntryNotFoundError)
    cause = (error.__cause__ or error) if nowhere else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    login = "log in with `hf auth login`"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo} and {login}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hub shows no model {repo}: check the name, or {login} if it is private"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the model {repo} of the Hub has no revision {revision!r}"
    if status in (401, 403):
        return f"the Hub refuses access to {repo} ({status}): {login}"

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
    return f"{fact}; fill that folder where there is a network: {command}"
