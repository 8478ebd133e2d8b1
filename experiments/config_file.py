"""Loading a config file, and the checks that make its errors one clear line."""

import inspect
import re
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from experiments.freeze import did_you_mean
from rmas.errors import InputError

ROOT = Path(__file__).parents[1]
_MODULE = "rmas_config_file"


def split_argv(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--config` (None where it is not given), and argv without it."""
    found: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif match := re.fullmatch(r"--?config(?:=(.*))?", word, re.DOTALL):
            value = match[1] if match[1] is not None else next(words, "")
            if not value:
                raise InputError("--config needs a file, as in --config=experiments/configs/x.py")
            found.append(value)
        else:
            rest.append(word)
    if len(found) > 1:
        raise InputError(f"--config is given {len(found)} times: {', '.join(found)}; keep one")
    return (found[0] if found else None), rest


def find_default(path: str) -> str:
    """The default config's path as it is, or in the project's folder if it is not here."""
    file, colon, argument = path.partition(":")
    if not Path(file).exists() and (ROOT / file).exists():
        return str(ROOT / file) + colon + argument
    return path


def load(spec: str) -> ConfigDict:
    """The ConfigDict that `get_config()` of a file returns; `FILE:ARG` calls `get_config(ARG)`.

    Raises InputError where there is no such file, where running it raises (with the line), and
    where it returns anything else.
    """
    file, colon, argument = spec.partition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"--config={spec}: {what} (in {Path.cwd()}){_configs_here(path)}")
    module = types.ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # dataclasses look their module up there
    try:
        source = path.read_text(encoding="utf-8")
        # Compiled here, so that no stale or unwanted __pycache__ lies beside the user's file.
        exec(compile(source, str(path), "exec"), module.__dict__)
        get_config = module.__dict__.get("get_config")
        if not callable(get_config):
            raise InputError(f"config file {path} has no function get_config()")
        arguments = [argument] if colon else []
        try:
            inspect.signature(get_config).bind(*arguments)
        except TypeError:
            right = "takes no argument" if colon else f"needs an argument: --config={path}:ARG"
            raise InputError(f"config file {path}: get_config() {right}") from None
        config = get_config(*arguments)
    except Exception as error:  # whatever a user's file may raise
        raise InputError(_at_line(error, path)) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"config file {path}: get_config() returned {type(config).__name__}; "
            "wanted ml_collections.ConfigDict"
        )
    return config


def define_flag(config: ConfigDict, spec: str, argv: Sequence[str]) -> None:
    """Defines the flag `--config` and one per override in argv; raises InputError for bad ones."""
    for word in argv:
        if word == "--":
            break
        if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
            _check_override(config, match[1], spec)
    try:
        config_flags.DEFINE_config_dict("config", config, sys_argv=list(argv))
    except (flags.Error, KeyError, AttributeError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"--config: {error}") from error


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all fields, in the order of the file's names."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def explain(error: flags.Error, config: ConfigDict | None) -> str:
    """An absl flag error in our words, where it is about a field of the config."""
    if missing := re.search(r"Flag --(\w+) must have a value other than None", str(error)):
        return f"--{missing[1]} is missing; give it a value, as in --{missing[1]}=..."
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    if not (match and config is not None):
        return str(error)
    name, value = match.groups()
    wanted = config_path.get_type(name, config).__name__
    return (
        f"--config.{name}={value}: wanted {wanted}, as in {config_path.get_value(name, config)!r}"
    )


def _check_override(config: ConfigDict, name: str, spec: str) -> None:
    try:
        parts = config_path.split(name)
    except Exception:  # the splitter is Python's own parser; it may raise a lot
        raise InputError(f"--config.{name}: not a field name") from None
    node: Any = config
    done = "config"
    for part in parts:
        if isinstance(node, tuple):
            raise InputError(f"--config.{name}: set the whole of --{done}, as --{done}={node!r}")
        if isinstance(node, ConfigDict) and part in node:
            node = node[part]
        elif isinstance(node, ConfigDict):
            names = [n for n, _ in flat(config)]
            raise InputError(f"--config.{name}: no such field in {spec}{did_you_mean(name, names)}")
        else:
            try:
                node = node[part]
            except Exception:  # the user's path against a value of any type
                kind = type(node).__name__
                raise InputError(
                    f"--config.{name}: {done} is a {kind}, it has no {part!r}"
                ) from None
        done += f"[{part}]" if isinstance(part, int) else f".{part}"
    if node is None and config_path.get_type(name, config) is type(None):
        raise InputError(
            f"--config.{name}: it is None in {spec}, so its type is not known; set it in the "
            "file, or make it ml_collections.config_dict.placeholder(TYPE) there"
        )
    if isinstance(node, ConfigDict) and len(node):
        one = f"--config.{name}.{next(iter(node))}"
        raise InputError(f"--config.{name}: it is a group of fields; set them one by one, as {one}")
    if isinstance(node, list):
        raise InputError(f"--config.{name}: it is a list in {spec}; make it a tuple there")


def _at_line(error: Exception, path: Path) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines, text = [error.lineno], error.msg
    else:
        text = str(error)
    if not isinstance(error, InputError):
        text = f"{type(error).__name__}: {text}"
    elif not lines:
        return text
    return f"config file {path}{f', line {lines[-1]}' if lines else ''}: {text}"


def _configs_here(path: Path) -> str:
    folder = ROOT / "experiments" / "configs"
    names = sorted(p.name for p in folder.glob("*.py") if p.name != "__init__.py")
    if not names:
        return ""
    hint = did_you_mean(path.name, names).replace("the fields are", "there are")
    return f"{hint} (in {folder})"
