"""`line.toml`: the line, its server, what is asked, the source and the sinks."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..calls import Options, Sending
from ..errors import InvalidInput
from ..policy import Policy
from ..tls import Tls
from .runner import Pace

SOURCES = {"folder": "folder.Folder", "snapshot": "over_http.Snapshot", "camera": "cameras.Camera", "genicam": "genicam.GenICam"}
SINKS = {"jsonl": "jsonl.Jsonl", "webhook": "over_http.Webhook", "mqtt": "mqtt.Mqtt", "opcua": "opcua.OpcUa", "modbus": "modbus.Modbus"}
INSPECTION = tuple(name for name in Options.__annotations__ if name not in (*Sending.__annotations__, "history"))


@dataclass(frozen=True)
class Config:
    """All of it. `sinks` by name; a sink's place in the history is kept under that name."""

    name: str
    state: Path
    pace: Pace
    url: str
    tls: Tls | None
    policy: Policy
    options: dict[str, Any]
    source: Any
    sinks: dict[str, Any]


def read(path: Path) -> Config:
    """The file's content, checked; relative paths in it start at its folder. InvalidInput says what is wrong and where."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _wrong(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise _wrong(f"{path}: {error}") from error
    try:
        return build(table, path.resolve().parent)
    except InvalidInput as error:
        raise _wrong(f"{path}: {error.message}") from error


def build(table: dict[str, Any], folder: Path) -> Config:
    _only(table, ("line", "server", "inspect", "source", "sinks"), "")
    line, server, asked = (dict(table.get(name, {})) for name in ("line", "server", "inspect"))
    name = _value(line.pop("name", "line"), str, folder, "[line] name")
    state = _value(line.pop("state", "line-state"), Path, folder, "[line] state")
    pace = _make(Pace, line, folder, "[line] ")
    if pace.takt < 0 or min(pace.timeout, pace.again) <= 0 or pace.queue < 1 or pace.workers < 1 or pace.stop < 0:
        raise _wrong("[line] expected takt, stop >= 0, timeout, again > 0, queue, workers >= 1")
    url, tls = _value(server.pop("url", "localhost:8001"), str, folder, "[server] url"), server.pop("tls", None)
    policy = _make(Policy, server, folder, "[server] ")
    _only(asked, INSPECTION, "[inspect] ")
    if "reference" in asked:
        asked["reference"] = [folder / picture for picture in asked["reference"]]
    if "source" not in table:
        raise _wrong("no [source]")
    secret = _tls(tls, folder) if tls is not None else None
    return Config(name, state, pace, url, secret, policy, asked, made_source(table["source"], folder), _sinks(table, folder))


def made_source(table: dict[str, Any], folder: Path) -> Any:
    return _kind(table, SOURCES, folder)


def _sinks(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    sinks: dict[str, Any] = {}
    for entry in table.get("sinks", []):
        values = dict(entry)
        name = values.pop("name", values.get("kind"))
        if name in sinks:
            raise _wrong(f"[[sinks]] two are named {name!r}; give each a name of its own")
        sinks[name] = _kind(values, SINKS, folder)
    if not sinks:
        raise _wrong("no [[sinks]]: nobody would hear of the verdicts")
    return sinks


def _tls(table: dict[str, Any], folder: Path) -> Tls:
    _only(table, ("root", "key", "chain", "name"), "[server.tls] ")
    return Tls(**{key: value if key == "name" else folder / value for key, value in table.items()})


def _kind(table: dict[str, Any], kinds: Mapping[str, str], folder: Path) -> Any:
    values = dict(table)
    kind = values.pop("kind", None)
    if kind not in kinds:
        raise _wrong(f"kind {kind!r}: expected one of {', '.join(kinds)}")
    module, _, name = kinds[kind].partition(".")
    try:
        made = getattr(import_module(f".{module}", __package__), name)
    except ImportError as error:
        raise _wrong(f"kind {kind!r} needs {error.name}: pip install './client[{kind}]'") from error
    return _make(made, values, folder, f"{kind}: ")


def _make(made: Any, values: dict[str, Any], folder: Path, where: str) -> Any:
    """An instance of the dataclass `made`, each value of the type that its field says."""
    hints = get_type_hints(made)
    known = {field.name: field for field in fields(made) if field.repr}
    _only(values, tuple(known), where)
    for name, field in known.items():
        if field.default is MISSING and field.default_factory is MISSING and name not in values:
            raise _wrong(f"{where}{name} is missing")
    checked = {name: _value(value, hints[name], folder, where + name) for name, value in values.items()}
    try:
        return made(**checked)
    except ValueError as error:
        raise _wrong(f"{where}{error}") from error


def _value(value: Any, hint: Any, folder: Path, where: str) -> Any:
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        hint = next(choice for choice in choices if choice is not type(None))
        return _value(value, hint, folder, where)
    if origin is Literal:
        if value in choices:
            return value
        raise _wrong(f"{where}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    if hint is Path and isinstance(value, str):
        return folder / value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise _wrong(f"{where}: expected {wanted.__name__}, got {value!r}")
    return value


def _only(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    if unknown := [name for name in table if name not in names]:
        raise _wrong(f"{where}{unknown[0]} is unknown; expected {', '.join(names)}")


def _wrong(text: str) -> InvalidInput:
    return InvalidInput(text, "INVALID_ARGUMENT")
