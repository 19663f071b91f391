"""Artefacts: `model_repository/<model>/1/<profile>/` with a `manifest.json` that says what they are and where they came from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROFILE_VARIABLE = "SIGHTLINE_PROFILE"
MANIFEST = "manifest.json"
_HOW = "make them with `sightline-export` (the tiny ones: `sightline-export tiny`)"

_PUBLIC_NAMES = {"lisa_engine": "lisa"}  # the front shares its engine's artefact, and clients know the front


class ArtefactError(Exception):
    """Artefacts are missing, foreign or damaged; the text says which and how to make them."""


@dataclass(frozen=True)
class Manifest:
    """What lies in one artefact folder. `files`: name -> `sha256:…`; `dims`: what the steps read; `extra`: the model's own keys."""

    model: str
    profile: str
    files: Mapping[str, str]
    source: Mapping[str, Any]
    precision: str
    tools: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    dims: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def path(self, name: str) -> Path:
        """The file `name` of this folder; ArtefactError where the manifest does not list it."""
        if name not in self.files:
            raise ArtefactError(f"{self.model}: {name} is not listed in the manifest of profile '{self.profile}'; {_HOW}")
        return self.folder / name


def file_hash(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def artefact_hash(manifest: Manifest) -> str:
    """One `sha256:<hex>` for all files of a manifest: their names and hashes, in order of name."""
    lines = "".join(f"{name} {manifest.files[name]}\n" for name in sorted(manifest.files))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def profiles(model_dir: Path) -> list[str]:
    """The profiles a model has artefacts for."""
    return sorted(path.parent.name for path in (Path(model_dir) / "1").glob(f"*/{MANIFEST}"))


def chosen_profile(model_dir: Path) -> str:
    """SIGHTLINE_PROFILE, or the only profile there is."""
    if name := os.environ.get(PROFILE_VARIABLE):
        return name
    found = profiles(model_dir)
    if len(found) != 1:
        what = f"several profiles ({', '.join(found)}), choose one by {PROFILE_VARIABLE}" if found else f"no artefacts; {_HOW}"
        raise ArtefactError(f"{Path(model_dir).name}: {what}")
    return found[0]


def load_manifest(model_dir: Path | str, profile: str | None = None) -> Manifest:
    """The manifest of a model's artefacts.

    Args:
        model_dir: `model_repository/<model>`.
        profile: its name; default: SIGHTLINE_PROFILE, else the only one there is.
    Raises:
        ArtefactError: missing, unreadable, or made for another model or profile.
    """
    model_dir = Path(model_dir)
    profile = profile or chosen_profile(model_dir)
    folder = model_dir / "1" / profile
    try:
        content = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise ArtefactError(f"{model_dir.name}: no artefacts of profile '{profile}'; {_HOW}") from None
    except (OSError, ValueError):
        raise ArtefactError(f"{model_dir.name}: the manifest of profile '{profile}' cannot be read; {_HOW}") from None
    names = set(Manifest.__dataclass_fields__) - {"folder", "extra"}
    extra = {key: value for key, value in content.items() if key not in names}
    try:
        manifest = Manifest(folder=folder, extra=extra, **{key: value for key, value in content.items() if key in names})
    except TypeError:
        raise ArtefactError(f"{model_dir.name}: the manifest of profile '{profile}' lacks keys; {_HOW}") from None
    if (manifest.model, manifest.profile) != (model_dir.name, profile):
        raise ArtefactError(f"{model_dir.name}: foreign artefacts, made for {manifest.model} '{manifest.profile}'; {_HOW}")
    return manifest


def write_manifest(
    model_dir: Path | str,
    profile: str,
    files: Iterable[str],
    *,
    source: Mapping[str, Any],
    precision: str,
    tools: Mapping[str, str] | None = None,
    parity: Mapping[str, Any] | None = None,
    dims: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Hash the named files of `<model_dir>/1/<profile>/` and write its manifest (atomically).

    `extra` holds the model's own top-level keys, for example LISA's `verdict` block.
    """
    folder = Path(model_dir) / "1" / profile
    hashes = {name: file_hash(folder / name) for name in sorted(files)}
    manifest = Manifest(
        Path(model_dir).name, profile, hashes, source, precision, tools or {}, parity or {}, dims or {}, extra or {}, folder
    )
    content = {key: value for key, value in asdict(manifest).items() if key not in ("folder", "extra")} | dict(manifest.extra)
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, folder / MANIFEST)
    return manifest


def verify(manifest: Manifest, deep: bool = True) -> None:
    """Raise ArtefactError unless every listed file is there and (`deep`) has the listed hash."""
    for name, expected in manifest.files.items():
        path = manifest.folder / name
        if not path.is_file():
            raise ArtefactError(f"{manifest.model}: {name} of profile '{manifest.profile}' is missing; {_HOW}")
        if deep and file_hash(path) != expected:
            raise ArtefactError(f"{manifest.model}: {name} of profile '{manifest.profile}' is not the file of its manifest; {_HOW}")


def repository_hashes(repository: Path | str, profile: str | None = None) -> dict[str, str]:
    """`{model: hash}` of every model of a repository that has artefacts: the report's `artefacts`."""
    hashes = {}
    for model_dir in sorted(Path(repository).iterdir()):
        found = profiles(model_dir)
        if found and (name := profile or chosen_profile(model_dir)) in found:
            hashes[_PUBLIC_NAMES.get(model_dir.name, model_dir.name)] = artefact_hash(load_manifest(model_dir, name))
    return hashes
