"""Config files and flags, by ml_collections: from what they name to `rmas.Settings`.

A config file names what differs from the defaults; every field of the settings can be set by a
flag. The checks here make errors one clear line.
"""

import inspect
import os
import re
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rmas.checksums import read_checked
from rmas.console import printable
from rmas.errors import InputError
from rmas.experiment import Settings
from rmas.experiment.recipes import RECIPES, recipe_values
from rmas.experiment.stored import SETTINGS, read_settings
from rmas.files import read_bytes
from rmas.options import Described, as_dict, described, did_you_mean, summary_of
from rmas.places import expanded, has_file

ROOT = Path(__file__).parents[1]
COMMAND = {
    "dry_run": (False, "say what would be done: the data is prepared, nothing is run"),
    "plan": (
        False,
        "say what this command would need of each device, and do nothing; the exit status is 3 "
        "where it does not fit",
    ),
    "recipe": (
        "",
        f"a recipe of training, set over the config file and under other flags: "
        f"{', '.join(RECIPES)} (the published one)",
    ),
    "plan_lengths": (
        (0, 0),
        "of plan: tokens of a prompt and of a role's text; 0: 512 and 256, or what contexts hold",
    ),
    "plan_json": ("", "of plan: file to write the same to, as JSON"),
    "topology": (
        "",
        "of plan: a slice of TPU chips, as in v5e:2x4 or v4:2x2x4, for which their compiler "
        "answers; no TPU is needed (the agents' graph is system.topology)",
    ),
}
"""Fields of a config that belong to the command, not to the settings: defaults and help."""
_MODULE = "rmas_config_file"
_FLAG = re.compile(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)


def fields() -> dict[str, Described]:
    """Every field of the settings that holds a value, by dotted name."""
    return {field.name: field for field in described(Settings) if field.section is None}


def load(spec: str) -> ConfigDict:
    """All fields: the defaults, changed as a config file says.

    `FILE:ARG` calls its `get_config(ARG)`. A `settings.json` of a workdir is a config, too.

    Raises InputError where there is no such file, where running it raises (with the line), and
    where it names a field that the settings lack.
    """
    file, colon, argument = spec.partition(":")
    path = expanded(file)
    if os.path.isdir(path) or not has_file(path):
        problem = "is a folder" if os.path.isdir(path) else "no such file"
        raise InputError(f"--config={spec}: {problem} (in {Path.cwd()}){_configs_here(path)}")
    if path.suffix == ".json":
        values = read_settings(path) if path.name == SETTINGS else read_checked(path)
    else:
        values = _run(path, argument if colon else None)
    if not isinstance(values, dict):
        raise InputError(f"config file {path} is not a JSON object")
    tools = values.get("tools")
    if path.suffix == ".json" and isinstance(tools, dict) and tools.get("functions"):
        raise InputError(
            f"{path}: functions of tools cannot be stored; name the config file of this run, as "
            "--config=FILE"
        )
    whole = as_dict(Settings()) | {name: value for name, (value, _) in COMMAND.items()}
    try:
        if recipe := values.get("recipe"):  # what the file names itself counts more
            _merge(whole, recipe_values(recipe))
        _merge(whole, values)
        _check_kinds(whole)
        return ConfigDict(whole)
    except ValueError as error:  # an InputError, or a key that ConfigDict does not take
        raise InputError(f"config file {path}: {error}") from None


def define_flag(config: ConfigDict, argv: list[str]) -> list[str]:
    """Defines the flag `--config` and one per override in argv; returns argv to be parsed.

    Of a field that is given several times the last value counts. Raises InputError for a field
    that there is not, and for one without a value.
    """
    known, last = fields(), {}
    for place, word in enumerate(argv):
        if word == "--":
            break
        if match := _FLAG.fullmatch(word):
            _check_override(config, match[1], known)
            _check_value(word, match, argv[place + 1 : place + 2], known)
            last[match[1]] = place
    if "recipe" in last and (recipe := _value_at(argv, last["recipe"])):
        _lay(config, recipe_values(recipe))
    kept, value_of_dropped = [], False
    for place, word in enumerate(argv):
        match = _FLAG.fullmatch(word)
        # A whole dict replaces earlier flags for its entries.
        names = (match[1], match[1].rpartition(".")[0]) if match else ()
        if value_of_dropped or any(last.get(name, place) > place for name in names):
            spaced = not value_of_dropped and match is not None and match[2] is None
            value_of_dropped = spaced and not _is_boolean(match[1], known)
            continue
        kept.append(word)
    try:
        config_flags.DEFINE_config_dict("config", config, sys_argv=kept)
    except (flags.Error, KeyError, AttributeError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"--config: {error}") from error
    return kept


def settings_of(config: ConfigDict) -> Settings:
    """The settings that a config with all overrides describes; raises InputError by field."""
    values = {name: value for name, value in config.to_dict().items() if name not in COMMAND}
    return Settings.from_dict(_with_tuples(values, Settings), "config")


def explain(error: flags.Error) -> str:
    """An absl flag error in our words, where it is about a field of the config."""
    if missing := re.search(r"Flag --(\w+) must have a value other than None", str(error)):
        return f"--{missing[1]} is missing; give it a value, as in --{missing[1]}=..."
    if unknown := re.search(r"Unknown command line flag '(\w+)'", str(error)):
        ends = [name for name in fields() if name.rpartition(".")[2] == unknown[1]]
        if ends:
            return f"--{unknown[1]} is unknown; fields are set as in --config.{ends[0]}=..."
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    if not match:
        return str(error)
    name, value = match.groups()
    field, owner = fields().get(name), fields().get(name.rpartition(".")[0])
    if owner is not None:  # an entry of a dict
        return f"--config.{name}={value}: wanted {owner.kind.removeprefix('dict of ')}"
    if field is None:
        return f"--config.{name}={value}: {error}"
    return f"--config.{name}={value}: wanted {field.kind}, as in {field.default!r}"


def help_of(config: ConfigDict) -> Iterator[str]:
    """Lines for `--help`: every section in words; every field with type, unit, value, meaning."""
    yield from _paragraphs("", Settings)
    for field in described(Settings):
        if field.section is not None:
            yield ""
            yield from _paragraphs(f"{field.name}: ", field.section)
            continue
        value = _at(config, field.name)
        yield f"        --config.{printable(f'{field.name}={_shown(value)}')}"
        kind = ", ".join(filter(None, [field.kind, field.unit, field.bounds]))
        default = "" if _plain(value) == _plain(field.default) else f" (default: {field.default!r})"
        text = f"{field.help} [{kind}]{default}"
        yield textwrap.fill(text, 96, initial_indent=" " * 12, subsequent_indent=" " * 12)


def find_default(path: str) -> str:
    """The default config's path as it is, or in the project's folder if it is not here."""
    file, colon, argument = path.partition(":")
    if not Path(file).exists() and (ROOT / file).exists():
        return str(ROOT / file) + colon + argument
    return path


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


def _run(path: Path, argument: str | None) -> Any:
    """What a config file's `get_config` returns, as nested dicts."""
    module = types.ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module  # dataclasses look their module up there
    try:
        source = read_bytes(path).decode()
        # Compiled here, so that no stale or unwanted __pycache__ lies beside the user's file.
        exec(compile(source, str(path), "exec"), module.__dict__)
        get_config = module.__dict__.get("get_config")
        if not callable(get_config):
            raise InputError(f"config file {path} has no function get_config()")
        arguments = [] if argument is None else [argument]
        try:
            inspect.signature(get_config).bind(*arguments)
        except TypeError:
            right = (
                f"needs an argument: --config={path}:ARG"
                if argument is None
                else "takes no argument"
            )
            raise InputError(f"config file {path}: get_config() {right}") from None
        config = get_config(*arguments)
        if not isinstance(config, ConfigDict):
            raise InputError(
                f"config file {path}: get_config() returned {type(config).__name__}; "
                "wanted ml_collections.ConfigDict"
            )
        return config.to_dict()
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        raise InputError(_at_line(error, path)) from error


def _merge(whole: dict[str, Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """Sets what `values` name; a group of fields is merged, a dict of the user's replaced."""
    open_dicts = {name for name, field in fields().items() if isinstance(field.default, dict)}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in whole:
            names = [*fields(), *(prefix + known for known in whole)]
            raise InputError(f"{path}: no such field{did_you_mean(path, names)}")
        old = whole[name]
        if path in open_dicts:
            whole[name] = dict(value) if isinstance(value, Mapping) else value
        elif isinstance(old, dict):
            if not isinstance(value, Mapping):
                raise InputError(f"{path} is {value!r}; it is a group of fields")
            _merge(old, value, f"{path}.")
        elif isinstance(old, float) and type(value) is int:
            whole[name] = float(value)
        elif isinstance(old, tuple) and isinstance(value, list):
            whole[name] = tuple(value)
        else:
            whole[name] = value


def _check_kinds(whole: Mapping[str, Any]) -> None:
    """Raises InputError for values that no flag could put right, since they are of another kind."""
    for name, field in fields().items():
        value: Any = whole
        for part in name.split("."):
            value = value[part]
        numbers = isinstance(field.default, int | float) and isinstance(value, int | float)
        if not (field.default is None or numbers or isinstance(value, type(field.default))):
            raise InputError(f"{name} is {value!r}; it must be {field.kind}, as {field.default!r}")


def _check_value(
    word: str, match: re.Match, following: Sequence[str], known: Mapping[str, Described]
) -> None:
    """Raises InputError for a flag that has no value, and for `no` before one that needs one."""
    if _is_boolean(match[1], known):
        return
    if word.lstrip("-").startswith("noconfig."):
        raise InputError(f"{word}: only fields of kind bool have flags with no")
    if match[2] is None and (not following or following[0].startswith("--")):
        raise InputError(f"{word} is given without a value, as in {word}=VALUE")


def _check_override(config: ConfigDict, name: str, known: Mapping[str, Described]) -> None:
    """Raises InputError for a name that no flag can set; a dict of the user's gets a new key."""
    if name in known or name in COMMAND:
        return
    owner = next((field for field in known if name.startswith((f"{field}.", f"{field}["))), None)
    if owner is not None and isinstance(known[owner].default, dict) and name[len(owner)] == ".":
        group, key = _at(config, owner), name[len(owner) + 1 :]
        if not key.isidentifier():
            raise InputError(
                f"--config.{name}: {key!r} is not a word that a flag can name; set the whole, as "
                f'--config.{owner}="{{{key!r}: ...}}"'
            )
        if hasattr(ConfigDict, key):
            raise InputError(
                f"--config.{name}: no flag can name {key!r}; set the whole, as "
                f'--config.{owner}="{{{key!r}: ...}}"'
            )
        if key not in group:
            group[key] = 0 if known[owner].kind == "dict of int" else ""
        return
    if owner is not None:
        raise InputError(f"--config.{name}: set the whole of --config.{owner}")
    if inside := [field for field in known if field.startswith(f"{name}.")]:
        raise InputError(
            f"--config.{name}: it is a group of fields; set them one by one, as "
            f"--config.{inside[0]}"
        )
    raise InputError(f"--config.{name}: no such field{did_you_mean(name, known)}")


def _with_tuples(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Values whose tuples of texts may have come as one text, `a,b`, from the command line."""
    hints, made = typing.get_type_hints(cls), dict(values)
    for name, value in values.items():
        hint = hints.get(name)
        if isinstance(value, Mapping) and isinstance(hint, type):
            made[name] = _with_tuples(value, hint)
        elif (
            typing.get_origin(hint) is tuple
            and isinstance(value, tuple)
            and len(value) == 1
            and isinstance(value[0], str)
        ):
            made[name] = tuple(part.strip() for part in value[0].split(",") if part.strip())
    return made


def _value_at(argv: Sequence[str], place: int) -> str:
    """The value of the flag at a place of argv."""
    match = _FLAG.fullmatch(argv[place])
    return match[2] if match and match[2] is not None else argv[place + 1]


def _lay(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets the values of a recipe in a whole config."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _lay(config[name], value)
        else:
            config[name] = value


def _is_boolean(name: str, known: Mapping[str, Described]) -> bool:
    """Whether a flag may stand without a value."""
    if name in COMMAND:
        return isinstance(COMMAND[name][0], bool)
    return name in known and known[name].kind == "bool"


def _at(config: ConfigDict, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = node[part]
    return node


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _shown(value: Any) -> str:
    value = _plain(value)
    return value if isinstance(value, str) else repr(value)


def _paragraphs(title: str, cls: type) -> Iterator[str]:
    for n, paragraph in enumerate(summary_of(cls).split("\n\n")):
        text = " ".join(((title if n == 0 else "") + paragraph).split())
        yield textwrap.fill(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _at_line(error: BaseException, path: Path) -> str:
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
