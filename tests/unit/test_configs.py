"""The committed configurations are those of the spec, and no step reads what nobody makes."""

import re
from pathlib import Path

from sightline_ensemble import configs
from sightline_ensemble.contract import ENGINES_WITH_CLOCK, MODELS
from sightline_ensemble.wiring import ENSEMBLES

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def test_committed_files_equal_the_spec():
    assert configs.differences(REPOSITORY) == []


def test_every_model_has_both_worlds():
    for name in (*MODELS, *ENSEMBLES):
        assert (REPOSITORY / name / "config.pbtxt").exists() and (REPOSITORY / name / "configs" / "cpu.pbtxt").exists()


def test_production_knows_no_engine_clocks():
    for name, text in configs.files().items():
        if name.endswith("/config.pbtxt") and name.split("/")[0] in ENSEMBLES:
            assert not any(f"{engine}_clock" in text for engine in ENGINES_WITH_CLOCK), name
        if name.endswith("cpu.pbtxt"):
            assert "KIND_GPU" not in text and "tensorrt" not in text


def test_engines_are_plans_with_exact_dims():
    text = configs.config("sam_encoder", cpu=False)
    assert 'platform: "tensorrt_plan"' in text and "KIND_GPU" in text
    assert re.search(r'"image_embedding" data_type: TYPE_FP32 dims: \[ 256, 64, 64 \]', text)


def test_write_and_compare(tmp_path, capsys):
    assert configs.main(["--write", str(tmp_path)]) == 0 and configs.main([str(tmp_path)]) == 0
    (tmp_path / "report" / "config.pbtxt").write_text("")
    assert configs.main([str(tmp_path)]) == 1 and "report/config.pbtxt" in capsys.readouterr().out
