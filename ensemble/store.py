"""Products on disk: one readable recipe `<name>.json` each, and content-addressed banks `banks/<hash>.npz`.

Several servers may share the directory. A recipe appears, changes and vanishes in one step (write, then rename), its bank is
there before it; a lock file per product orders writers. Readers look at the file's time, so a change is seen by the next request.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bank import Bank, Calibration
from .errors import not_found

PRODUCTS_VARIABLE = "SIGHTLINE_PRODUCTS"
_KEPT = 16  # banks in memory


@dataclass(frozen=True)
class Recipe:
    """What is known of a product. `features` identifies the artefacts its bank was made with."""

    name: str
    description: str
    prompt: str
    box: tuple[float, float, float, float] | None
    images: int
    created: str  # ISO 8601, UTC
    bank: str
    features: str
    calibration: dict[str, Any]
    augment: str = "none"


class Store:
    """The directory of products."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._banks: dict[str, Bank] = {}
        self._recipes: dict[str, tuple[tuple[int, int, int], Recipe]] = {}
        self._lock = threading.Lock()

    @staticmethod
    def from_environment() -> Store:
        """The directory SIGHTLINE_PRODUCTS names, or `products` in the working directory."""
        return Store(Path(os.environ.get(PRODUCTS_VARIABLE) or "products"))

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json") if not path.name.startswith("."))

    def recipe(self, name: str, field: str = "PRODUCT") -> Recipe:
        """RequestError NOT_FOUND for an unknown product; `field` is the input's name."""
        path = self.folder / f"{name}.json"
        try:
            info = path.stat()
            stamp = (info.st_mtime_ns, info.st_ino, info.st_size)
            if (kept := self._recipes.get(name)) and kept[0] == stamp:
                return kept[1]
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise not_found(field, f"no product '{name}' is enrolled") from None
        box = tuple(content.pop("box") or ()) or None
        recipe = Recipe(box=box, **content)
        self._recipes[name] = (stamp, recipe)
        return recipe

    def bank(self, name: str) -> Bank:
        """The bank of a product's recipe."""
        for last in (False, True):
            recipe = self.recipe(name)
            with self._lock:
                if recipe.bank in self._banks:
                    return self._banks[recipe.bank]
            try:
                return self._keep(recipe.bank, self._read(recipe))
            except FileNotFoundError:  # enrolled anew between the two reads
                if last:
                    raise not_found("PRODUCT", f"the bank of '{name}' is missing, enrol it again") from None
        raise AssertionError

    def enroll(self, recipe: Recipe, bank: Bank) -> None:
        """Register or replace a product, all or nothing. `recipe.bank` must be `bank_name(content)` of `bank`."""
        with self._writing(recipe.name):
            content = packed(bank)
            old = self._bank_of(recipe.name)
            _replace(self.folder / "banks" / f"{recipe.bank}.npz", content)
            _replace(self.folder / f"{recipe.name}.json", (json.dumps(asdict(recipe), indent=2) + "\n").encode())
            self._forget(old)

    def remove(self, name: str) -> Recipe:
        with self._writing(name):
            recipe = self.recipe(name, "NAME")
            (self.folder / f"{name}.json").unlink()
            self._forget(recipe.bank)
        return recipe

    def _read(self, recipe: Recipe) -> Bank:
        with np.load(self.folder / "banks" / f"{recipe.bank}.npz", allow_pickle=False) as file:
            features, owner, channels = file["features"].astype(np.float32), file["owner"], tuple(file["channels"].tolist())
        return Bank(features, owner, channels, recipe.images, Calibration(**recipe.calibration))

    def _keep(self, key: str, bank: Bank) -> Bank:
        with self._lock:
            while len(self._banks) >= _KEPT:
                self._banks.pop(next(iter(self._banks)))
            self._banks[key] = bank
        return bank

    def _bank_of(self, name: str) -> str | None:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text())["bank"] if path.exists() else None

    def _forget(self, bank: str | None) -> None:
        """Delete a bank that no recipe names any more."""
        if bank and all(self._bank_of(name) != bank for name in self.names()):
            (self.folder / "banks" / f"{bank}.npz").unlink(missing_ok=True)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """One writer for a product, and (banks may be shared) one for the directory."""
        (self.folder / "banks").mkdir(parents=True, exist_ok=True)
        with open(self.folder / f".{name}.lock", "w") as own, open(self.folder / ".banks.lock", "w") as banks:
            fcntl.flock(own, fcntl.LOCK_EX)
            fcntl.flock(banks, fcntl.LOCK_EX)
            yield


def packed(bank: Bank) -> bytes:
    """A bank as .npz bytes; features in half precision."""
    buffer = io.BytesIO()
    np.savez(buffer, features=bank.features.astype(np.float16), owner=bank.owner, channels=np.array(bank.channels))
    return buffer.getvalue()


def bank_name(bank: Bank) -> str:
    """The name of a bank's file: a hash of what it holds."""
    digest = hashlib.sha256(bank.features.astype(np.float16).tobytes())
    digest.update(bank.owner.tobytes())
    return digest.hexdigest()[:40]


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
