"""Process start-up: what must be set before the first compilation."""

import logging
import os
import tempfile
from pathlib import Path

import jax

_log = logging.getLogger(__name__)


def start(cache_dir: str | os.PathLike | None = None) -> None:
    """Turns on JAX's persistent compile cache, and quiets libraries; call it once, first.

    The cache keeps every compiled program, however small, so that a second start is fast. Its
    folder is `cache_dir`, else `$JAX_COMPILATION_CACHE_DIR`, else `$XDG_CACHE_HOME/rmas/xla`,
    else `~/.cache/rmas/xla`. A folder that cannot be written costs one logged line and the
    cache, never the run.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    folder = Path(cache_dir) if cache_dir is not None else _default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        jax.config.update("jax_compilation_cache_dir", None)
        _log.warning(
            "compile cache off: %s cannot be written (%s); set XDG_CACHE_HOME to a folder that can",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _default_cache_dir() -> Path:
    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "rmas" / "xla"
