"""TensorRT plans: what they were built for, and whether this machine may load them. Nothing here imports TensorRT.

`model_repository/<model>/1/<profile>/` holds, beside the ONNX graphs, `<name>.plan` with its JSON `<name>.json`, and `model.plan`, a
link to the plan in use. A plan fits one GPU architecture and one version of TensorRT; the ONNX graph stays the source of truth.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from .artefacts import ArtefactError, Manifest, file_hash, load_manifest
from .contract import MODELS

LINK = "model.plan"
FLAVOURS = {"trt": "TensorRT", "rtx": "TensorRT-RTX"}
PRECISIONS = ("fp16", "bf16", "fp32")  # the faster first: what `sightline-export engine` takes unless told
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/local/tensorrt/lib", "/opt/tensorrt/lib")


@dataclass(frozen=True)
class Host:
    """What a plan must fit. `architectures`: of its GPUs, e.g. sm_90; `version`: of the TensorRT that Triton loads, "" if unknown."""

    architectures: tuple[str, ...]
    version: str

    def __str__(self) -> str:
        return f"{'+'.join(self.architectures) or 'no GPU'} with TensorRT {self.version or 'of unknown version'}"


@dataclass(frozen=True)
class Plan:
    """What a plan's JSON says. `onnx`: file -> `sha256:…` of what it was built from; `profiles`: input -> (min, opt, max) shapes."""

    model: str
    architectures: tuple[str, ...]
    flavour: str  # trt | rtx
    version: str
    precision: str
    onnx: Mapping[str, str]
    sha256: str
    bytes: int
    inputs: Mapping[str, str]  # name -> Triton's data type
    outputs: Mapping[str, str]
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]]
    build: Mapping[str, Any] = field(default_factory=dict)  # seconds, peak_mib
    path: Path = Path()

    @property
    def name(self) -> str:
        """The file's name; the profile of the graph is its folder's."""
        return plan_name(self.model, self.architectures, self.flavour, self.version, self.precision, self.onnx)

    @property
    def largest_batch(self) -> int:
        """The largest batch that one of the optimisation profiles takes."""
        return max(min(shapes[2][0] for shapes in profile.values()) for profile in self.profiles)

    def __str__(self) -> str:
        return f"{'+'.join(self.architectures)} with {FLAVOURS.get(self.flavour, self.flavour)} {self.version}"


def plan_name(model: str, architectures: Sequence[str], flavour: str, version: str, precision: str, onnx: Mapping[str, str]) -> str:
    """`<model>.<architectures>.<flavour><version>.<precision>.<12 hex of the ONNX's hash>.plan`."""
    return f"{model}.{'+'.join(architectures)}.{flavour}{version}.{precision}.{onnx_digest(onnx)[:12]}.plan"


def onnx_name(precision: str) -> str:
    """The graph of a precision: `model.onnx` is fp32."""
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def onnx_digest(hashes: Mapping[str, str]) -> str:
    """Hex SHA-256 of a graph: of its file, or of names and hashes where its weights lie in a second file."""
    if len(hashes) == 1:
        return next(iter(hashes.values())).removeprefix("sha256:")
    return sha256("".join(f"{name} {hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def listed_onnx(manifest: Manifest, precision: str) -> dict[str, str]:
    """File -> hash of a precision's graph as the artefact's manifest lists it, `<graph>.data` included; empty: it lists none."""
    graph = onnx_name(precision)
    return {name: manifest.files[name] for name in (graph, f"{graph}.data") if name in manifest.files and graph in manifest.files}


def rebuild_command(repository: Path, profile: str, model: str, precision: str = "") -> str:
    """The command that builds the plan, here and now."""
    chosen = f" --precision {precision}" if precision in PRECISIONS else ""
    return f"`sightline-export engine --repository {repository} --profile {profile} --model {model}{chosen}`"


def read_plan(path: Path) -> Plan:
    """The JSON beside a plan file. ArtefactError: missing, damaged, or of another plan."""
    described = path.with_suffix(".json")
    try:
        content = json.loads(described.read_text())
        plan = Plan(**{**content, "architectures": tuple(content["architectures"]), "path": path})
        assert plan.name == path.name and plan.profiles and plan.largest_batch > 0
    except FileNotFoundError:
        raise ArtefactError(f"{path.name}: {described.name} is missing, so nobody knows what the plan was built for") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError):
        raise ArtefactError(f"{path.name}: {described.name} is damaged or describes another plan") from None
    return plan


def check_plan(repository: Path, model: str, profile: str, host: Host, batch: int = 1, used: int = 1) -> Plan:
    """The plan in use of a model, if this machine may load it.

    Args:
        repository: the model repository.
        batch, used: `max_batch_size` and number of optimisation profiles that Triton is configured with.
    Raises:
        ArtefactError: no plan, or a misfit; one line: the plan, what it was built for, what is here, the command that rebuilds it.
    """
    link = repository / model / "1" / profile / LINK
    if not link.is_file():
        raise ArtefactError(
            f"{model}: no TensorRT plan of profile '{profile}'; build it on this machine with {rebuild_command(repository, profile, model)}"
        )
    path = link.resolve()
    try:
        plan = read_plan(path)
    except ArtefactError as error:
        raise ArtefactError(f"{error}; rebuild it with {rebuild_command(repository, profile, model)}") from None
    manifest = load_manifest(repository / model, profile)
    for misfit in (
        _built_elsewhere(plan, model, host),
        _stale(plan, manifest),
        _too_small(plan, batch, used),
        _damaged(plan),
    ):
        if misfit:
            raise ArtefactError(f"{path.name}: {misfit}; rebuild it with {rebuild_command(repository, profile, model, plan.precision)}")
    return plan


def _built_elsewhere(plan: Plan, model: str, host: Host) -> str:
    fits = (
        plan.model == model
        and plan.flavour == "trt"
        and bool(host.architectures)
        and set(host.architectures) <= set(plan.architectures)
        and _same_version(plan.version, host.version)
    )
    return "" if fits else f"built for {plan.model} on {plan}; here is {model} on {host}"


def _same_version(built: str, here: str) -> bool:
    """Equal in the numbers that both have (a library's name holds three of the four); an unknown version is left to Triton."""
    pairs = zip(re.findall(r"\d+", built), re.findall(r"\d+", here), strict=False)
    return all(a == b for a, b in pairs)


def _stale(plan: Plan, manifest: Manifest) -> str:
    listed = listed_onnx(manifest, plan.precision)
    if dict(plan.onnx) == listed:
        return ""
    now = f"has sha256 {onnx_digest(listed)[:12]}" if listed else "is not in the manifest"
    return f"built from {onnx_name(plan.precision)} with sha256 {onnx_digest(plan.onnx)[:12]}; the present one {now}"


def _too_small(plan: Plan, batch: int, used: int) -> str:
    if plan.largest_batch >= batch and len(plan.profiles) >= used:
        return ""
    has = f"{len(plan.profiles)} optimisation profiles and batches up to {plan.largest_batch}"
    return f"built with {has}; its configuration uses {used} and {batch}"


def _damaged(plan: Plan) -> str:
    size = plan.path.stat().st_size
    if size != plan.bytes:
        return f"{size} bytes long, expected {plan.bytes}: truncated or replaced"
    return "" if file_hash(plan.path) == plan.sha256 else "not the file of its JSON: damaged or replaced"


# --- the repository and the machine -----------------------------------------------------------------------------------
def check_repository(repository: Path, config: str, profile: str, host: Host | None = None) -> list[Plan]:
    """The plans that a start with these configurations loads, each checked; ArtefactError at the first misfit.

    Args:
        config: the name of `configs/<name>.pbtxt`, as in `--model-config-name`; a model without one has its `config.pbtxt`.
        profile: the artefacts that are served; the plan must be of the same.
        host: default: this one, looked at only where a plan is needed.
    """
    plans = []
    for model, text in _plan_configs(repository, config).items():
        found = re.search(r'default_model_filename: "([^"/]+)/', text)
        if not found or found[1] != profile:
            raise ArtefactError(
                f"{model}: the configuration loads the plan of profile '{found[1] if found else ''}', expected '{profile}'; write it with "
                f"`python -m sightline_ensemble.configs --write --profile {profile} {repository}`"
            )
        batch = max(map(int, re.findall(r"^max_batch_size: (\d+)", text, re.M)), default=0)
        named = re.search(r"profile: \[([^]]*)\]", text)  # of an instance group; without it Triton uses the first
        used = 1 + max(map(int, re.findall(r"\d+", named[1])), default=0) if named else 1
        plans.append(check_plan(repository, model, profile, host or this_host(), batch, used))
    return plans


def _plan_configs(repository: Path, config: str) -> dict[str, str]:
    """Model -> text of the configuration that Triton takes, where that is a TensorRT plan's."""
    texts = {}
    for model in (model.name for model in MODELS.values() if model.engine):
        chosen = repository / model / "configs" / f"{config}.pbtxt"
        path = chosen if config and chosen.is_file() else repository / model / "config.pbtxt"
        if path.is_file() and 'platform: "tensorrt_plan"' in (text := path.read_text()):
            texts[model] = text
    return texts


@cache
def this_host() -> Host:
    """The GPUs that nvidia-smi lists, and the version of the TensorRT library that a server here would load."""
    return Host(gpu_architectures(), tensorrt_version())


def gpu_architectures() -> tuple[str, ...]:
    """`sm_90` and the like, each once, in nvidia-smi's order; empty where there is no GPU or no driver."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(dict.fromkeys(f"sm_{major}{minor}" for major, minor in re.findall(r"^(\d+)\.(\d+)\s*$", text, re.M)))


def tensorrt_version() -> str:
    """From the name of libnvinfer (three numbers), which says what Triton loads, else from the Python package (four); "" if neither."""
    try:
        listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    found = re.findall(r"=> (\S*/libnvinfer\.so\S*)", listed)
    folders = (*filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")), *_LIBRARY_FOLDERS)
    found += [str(path) for folder in folders for path in Path(folder).glob("libnvinfer.so*")]
    for library in found:
        if version := re.search(r"libnvinfer\.so\.(\d+\.\d+\.\d+)", Path(library).resolve().name):
            return version[1]
    try:
        return metadata.version("tensorrt")
    except metadata.PackageNotFoundError:
        return ""
