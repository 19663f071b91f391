"""The Dockerfiles, their pins, compose and what it mounts: everything short of a container engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from sightline_ensemble.serve.cli import parser
from sightline_export.cli import parser as exporter

from .chart import ROOT, Object
from .images import DOCKER, arguments, copied, excluded, ignored, load, stages

HADOLINT = Path(sys.executable).with_name("hadolint")
FILES = ("Dockerfile", "Dockerfile.cpu")
PORTS = "8000 8001 8002 8003"


def lint(path: Path) -> list[str]:
    done = subprocess.run([HADOLINT, "--no-color", path], capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", FILES)
def test_hadolint(name: str) -> None:
    assert lint(DOCKER / name) == []


def test_hadolint_sees_mistakes(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd / && sudo apt-get install curl\n")
    assert {"DL3003", "DL3004", "DL3006"} <= {word for line in lint(bad) for word in line.split() if word.startswith("DL")}


@pytest.mark.parametrize("name", FILES)
def test_the_image_runs_as_nobody_special(name: str) -> None:
    runtime = stages(DOCKER / name)[-1]
    assert runtime.name == "runtime" and runtime.last("USER") == "1000:1000"
    assert runtime.last("EXPOSE") == PORTS and runtime.last("STOPSIGNAL") == "SIGTERM"
    assert "org.opencontainers.image.licenses" in runtime.last("LABEL")
    assert ":8003/ready" in runtime.health_command()[-1]
    assert not re.search(r"jemalloc|TCMALLOC", " ".join(runtime.all("RUN") + runtime.all("ENV"))), "nothing preloads one"
    assert not re.search(r"\b(gcc|g\+\+|clang|make|git|build-essential|pip)\b", " ".join(runtime.all("RUN")))
    command = runtime.command()
    chosen = parser().parse_args(command[1:])
    assert command[0] == "sightline-serve" and chosen.host == "0.0.0.0" and str(chosen.products) == "/products"


TAKEN = {source for name in FILES for stage in stages(DOCKER / name) for source in copied(stage)}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says which files are the repository's")
def test_nothing_that_an_image_takes_is_kept_out_of_the_build() -> None:
    """Docker's own rules: a COPY of what is ignored succeeds, and the image lacks it."""
    assert {"model_repository", "ensemble", "client", "export", "training", "docker/pins", "docker/prepare.py"} <= TAKEN
    kept = subprocess.run(["git", "ls-files", "-z", *TAKEN], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    assert "model_repository/report/1/model.py" in kept and "model_repository/inspect/1/.gitkeep" in kept
    assert [path for path in kept if path and excluded(path, ignored())] == []
    made = (
        "model_repository/report/1/tiny/manifest.json",
        "model_repository/lisa/1/real/a/b",
        "ensemble/__pycache__/a.pyc",
        ".venv/bin/pip",
    )
    assert all(excluded(path, ignored()) for path in (*made, "build/a", "products/cell.npz", "ensemble/sightline.egg-info/PKG-INFO"))


@pytest.mark.parametrize(
    "pattern, path, out",
    [
        ("model_repository/*/1/*/", "model_repository/report/1/model.py", True),  # the slash is cleaned away
        ("a/*/**", "a/b", False),
        ("a/*/**", "a/b/c/d", True),
        ("**/c", "c", True),
        ("build", "a/build", False),
        ("a.b", "axb", False),
    ],
)
def test_dockers_rules(pattern: str, path: str, out: bool) -> None:
    assert excluded(path, [pattern]) is out
    assert not excluded(path, [pattern, f"!{path}"])


def test_every_base_has_a_tag_and_takes_a_digest() -> None:
    for name in FILES:
        given = arguments(DOCKER / name)
        known = {stage.name for stage in stages(DOCKER / name)}
        for base in {stage.base for stage in stages(DOCKER / name)} - known:
            tag, digest = re.fullmatch(r"[^:]+:\$\{(\w+)\}\S*?\$\{(\w+)\}", base).groups()  # type: ignore[union-attr]
            assert given[tag] and given[digest] == ""
    year, month = map(int, arguments(DOCKER / "Dockerfile")["TRITON"].split("."))
    assert (year, month) >= (26, 4), "older servers do not see a dead step"


def pinned(name: str) -> dict[str, list[str]]:
    """Requirement -> hashes, of a file of docker/pins."""
    found: dict[str, list[str]] = {}
    for line in (DOCKER / "pins" / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line):
            current = found.setdefault(f"{normal(match[1])}=={match[2]}", [])
        elif match := re.search(r"--hash=(sha256:[0-9a-f]{64})", line):
            current.append(match[1])
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_images_install_the_lock_with_hashes() -> None:
    pins = load("pins")
    for name, requirements in pins.wanted().items():
        expected = {f"{normal(pin.split('==')[0])}=={pin.split('==')[1]}" for pin in requirements}
        assert set(pinned(name)) == expected, f"docker/pins/{name}.txt is not of this lock: run python docker/pins.py"
    assert all(hashes for name in ("server", "export", "cpu", "tiny", "cuda") for hashes in pinned(name).values())
    torch = next(pin for pin in (ROOT / "requirements" / "lock.txt").read_text().splitlines() if pin.startswith("torch=="))
    assert torch in pinned("cuda")


def test_the_server_needs_nothing_beside_its_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    have = {**pinned("server"), **pinned("cuda")}
    assert {f"{normal(pin.split('==')[0])}=={pin.split('==')[1]}" for pin in project["dependencies"]} <= set(have)


@pytest.mark.parametrize("index, code", [("", 1), ("an index", 0)])
def test_the_cpu_image_is_not_built_with_torch_for_cuda(index: str, code: int) -> None:
    made = {stage.name: stage for stage in stages(DOCKER / "Dockerfile.cpu")}
    first, *rest = made["packages"].all("RUN")
    done = subprocess.run(["sh", "-c", first], env={"PIP_EXTRA_INDEX_URL": index}, capture_output=True, text=True)
    assert done.returncode == code and ("PIP_EXTRA_INDEX_URL is empty" in done.stderr) is bool(code)
    assert "torch==" in " ".join(rest) and made["artefacts"].base == "packages" and made["packages"].all("ARG") == ["PIP_EXTRA_INDEX_URL"]


def test_hashes_are_asked_of_all_but_torch_and_tensorrt() -> None:
    runs = [run for name in FILES for stage in stages(DOCKER / name) for run in stage.all("RUN")]
    lines = [line for run in runs for line in run.split("&&") if "pip install" in line]
    loose = [line for line in lines if "--require-hashes" not in line and not line.endswith(" . ./client")]
    assert len(lines) > 6 and [re.search(r"[a-z]+==", line)[0] for line in loose] == ["tensorrt==", "torch=="]  # type: ignore[index]
    assert not [run for run in runs if re.search(r"\bmake\b", run)], "the Makefile installs without hashes"


def test_the_documented_export_can_succeed_in_its_image() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text().replace("\\\n", " ")
    line = shlex.split(next(line for line in text.splitlines() if line.startswith("docker run") and "sightline-export sam" in line))
    mounts = {line[at + 1].split(":")[1] for at, word in enumerate(line) if word == "-v"}
    chosen = exporter().parse_args(line[line.index("sam") :])
    assert chosen.images and chosen.csv, "no package of the image holds pictures; build/ below the working folder is for a checkout"
    for path in (chosen.images, chosen.csv, chosen.checkpoint, chosen.repository):
        assert any(path.is_relative_to(mount) for mount in mounts), path
    assert "--user" in line and text.split("docker run --rm --user")[0].splitlines()[-1].startswith("mkdir -p artefacts")
    image = next(stage for stage in stages(DOCKER / "Dockerfile") if stage.name == "export")
    assert image.last("WORKDIR") == "/tmp" and [word for word, _ in image.lines].index("WORKDIR") > max(
        at for at, (word, _) in enumerate(image.lines) if word == "RUN"
    )


@pytest.fixture(scope="module")
def compose() -> Object:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def test_compose_is_valid(compose: Object) -> None:
    spec = importlib.util.find_spec("check_jsonschema")  # of the package only its copy of the compose specification is used
    assert spec and spec.submodule_search_locations
    schema = json.loads((Path(spec.submodule_search_locations[0]) / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    judge = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in judge.iter_errors(compose)] == []
    compose = json.loads(json.dumps(compose))
    compose["services"]["server"]["shm_sise"] = "1gb"
    assert [error.message for error in judge.iter_errors(compose)]


def test_compose_serves_watches_and_traces(compose: Object) -> None:
    services = compose["services"]
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "prepare": None, "server": None, "cpu": ["cpu"], "prometheus": ["monitoring"], "grafana": ["monitoring"], "collector": ["traces"],
    }  # fmt: skip
    for name in ("server", "cpu"):
        service = services[name]
        chosen = parser().parse_args([re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in service["command"][1:]])
        assert chosen.trace_url == "http://collector:4318/v1/traces" and service["shm_size"]
        assert service["user"] == "1000:1000" and service["read_only"] and service["cap_drop"] == ["ALL"]
        assert float(service["stop_grace_period"].removesuffix("s")) > chosen.exit_seconds + 5
        assert service["healthcheck"]["test"][1:] == stages(DOCKER / "Dockerfile")[-1].health_command()
    assert services["server"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert "deploy" not in services["cpu"]
    target = yaml.safe_load((DOCKER / "monitoring" / "prometheus.yaml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == ["server:8002", "server:8003"] and "server" in services["cpu"]["networks"]["default"]["aliases"]


def test_compose_names_things_that_exist(compose: Object) -> None:
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0] if isinstance(mount, str) else "bind"
            assert source == "bind" or (DOCKER / source).exists() if "/" in source else source in compose["volumes"] or source == "bind", (
                mount
            )
        if "build" in service:
            made = stages(DOCKER / service["build"]["dockerfile"].removeprefix("docker/"))
            assert service["build"].get("target", "runtime") in [stage.name for stage in made], name
            asked = {argument.split("=")[0] for stage in made for argument in stage.all("ARG")}
            assert set(service["build"].get("args", {})) == asked & {"PIP_EXTRA_INDEX_URL"}
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), f"{name}: an exact version"
