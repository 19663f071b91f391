"""Manifests: written, read, verified; missing, foreign and damaged artefacts are refused with the command that makes them."""

import pytest
from sightline_ensemble import artefacts
from sightline_ensemble.artefacts import ArtefactError


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "sam_encoder" / "1" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    more = {"dims": {"image_size": 64}, "extra": {"verdict": {"yes": 3}}}
    artefacts.write_manifest(tmp_path / "sam_encoder", "tiny", ["model.onnx"], source={"a": 1}, precision="fp32", **more)
    return tmp_path / "sam_encoder"


def test_round_trip(model, monkeypatch):
    monkeypatch.delenv("SIGHTLINE_PROFILE", raising=False)
    manifest = artefacts.load_manifest(model)
    assert manifest.profile == "tiny" and manifest.dims["image_size"] == 64 and manifest.extra["verdict"] == {"yes": 3}
    artefacts.verify(manifest)
    assert artefacts.artefact_hash(manifest).startswith("sha256:")
    assert artefacts.repository_hashes(model.parent) == {"sam_encoder": artefacts.artefact_hash(manifest)}
    with pytest.raises(ArtefactError, match="not listed"):
        manifest.path("other")


def test_refused(model):
    with pytest.raises(ArtefactError, match="sightline-export"):
        artefacts.load_manifest(model, "real")
    manifest = artefacts.load_manifest(model, "tiny")
    manifest.path("model.onnx").write_bytes(b"other")
    with pytest.raises(ArtefactError, match="not the file"):
        artefacts.verify(manifest)
    manifest.path("model.onnx").unlink()
    with pytest.raises(ArtefactError, match="missing"):
        artefacts.verify(manifest, deep=False)
    model.rename(model.with_name("sam_decoder"))
    with pytest.raises(ArtefactError, match="foreign"):
        artefacts.load_manifest(model.with_name("sam_decoder"), "tiny")
