"""The command line of every experiment: preset, results folder, and one option a field of its Config."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

PRESET_NAMES = ("smoke", "laptop", "paper")
DEFAULT_PRESET = "laptop"
DEFAULT_OUT = Path("results")

Config = TypeVar("Config")
Settings = TypeVar("Settings")


class UsageError(Exception):
    """A command that cannot be carried out as typed; its message is one line."""


@dataclasses.dataclass(frozen=True)
class Command(Generic[Config]):
    """What the user asked for.

    Attributes:
        preset: smoke (seconds), laptop (minutes on two cores) or paper (the larger set-up).
        out: folder of all results; this run goes to OUT/NAME/PRESET.
        config: settings; their defaults are those of the preset.
        resume: continue from the checkpoints that a stopped run of the same settings left.
    """

    preset: str
    out: Path
    config: Config
    resume: bool = False


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """Say in one line that a word is unknown, which one is meant most likely, and which there are.

    Args:
        kind: what the word should name, e.g. "preset".
        word: the word as typed.
        known: the words that there are.

    Returns:
        The message.
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"no {kind} is called {word!r}.{hint} There are: {', '.join(known)}"


def parse(prog: str, description: str, presets: Mapping[str, Config], arguments: Sequence[str]) -> Command[Config]:
    """Read an experiment's command line.

    Args:
        prog: the command as typed, for the help text.
        description: head of the help text.
        presets: preset name to settings, a dataclass with a field `seed`.
        arguments: what follows the command.

    Returns:
        The command.

    Raises:
        UsageError: an unknown option, preset or value; the message names the nearest match.
        SystemExit: with 0 after --help.
    """
    preset = _find_preset(arguments)
    default = presets[preset]
    form: Any = Command[type(default)]  # type: ignore[misc]  # tyro reads the types of the options from this
    return read(prog, description, Command(preset, DEFAULT_OUT, default), arguments, form)


def read(prog: str, description: str, default: Settings, arguments: Sequence[str], form: Any = None) -> Settings:
    """Read a command line into a dataclass, one option a field, nested dataclasses unfolded.

    Args:
        prog: the command as typed, for the help text.
        description: head of the help text.
        default: the settings where nothing is typed.
        arguments: what follows the command.
        form: type of the result, where that of `default` does not say all.

    Returns:
        The settings.

    Raises:
        UsageError: an unknown option or value; the message names the nearest match.
        SystemExit: with 0 after --help.
    """
    import tyro

    _reject_unknown_options(arguments, _field_names(default))
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                form or type(default),
                default=default,
                prog=prog,
                description=_apart(description),
                args=list(arguments),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise UsageError(_first_line(message.getvalue())) from None


def _apart(description: str) -> str:
    """Put a blank line before each line that is a field or in columns: tyro joins lines that follow one another."""
    return re.sub(r"(?<!\n)\n(?=[A-Z]\w+: |\S.* {2,}\S)", "\n\n", description)


def _field_names(settings: Any) -> list[str]:
    names = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        names += _field_names(value) if dataclasses.is_dataclass(value) else [field.name]
    return names


def _find_preset(arguments: Sequence[str]) -> str:
    """Find the preset beforehand: the defaults of all other options depend on it."""
    found = DEFAULT_PRESET
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--preset":
            found = value if equals else "".join(arguments[position + 1 : position + 2])
    if found not in PRESET_NAMES:
        raise UsageError(unknown("preset", found, PRESET_NAMES))
    return found


def _reject_unknown_options(arguments: Sequence[str], fields: Sequence[str]) -> None:
    names = [name.replace("_", "-") for name in fields]
    switches = [f"no-{name}" for name in names]
    known = [f"--{name}" for name in ("help", *names)]
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known and option[2:] not in switches:
            raise UsageError(unknown("option", option, known))


def _first_line(box: str) -> str:
    """Take the message out of tyro's box: the lines up to the first rule."""
    lines: list[str] = []
    for line in box.splitlines():
        text = line.strip("│ ")
        if text.startswith("╭"):
            continue
        if not text.strip("─╰╯"):
            break
        lines.append(text)
    return " ".join(lines) or "the command could not be read"
