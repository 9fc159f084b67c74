"""Tests of the report of `fastsam doctor`."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch

import fastsam_core
from fastsam_core import doctor, ops
from fastsam_core.ops import schema


def test_checks_prints_the_report(capsys):
    fastsam_core.checks()
    assert capsys.readouterr().out == doctor.report() + "\n"


def test_collect_returns_all_facts_as_plain_json(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path / "models"))
    found = doctor.collect()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["fastsam_core"] == fastsam_core.__version__
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert all(found["versions"][name] for name in ("python", "numpy", "opencv", "pillow", "safetensors"))
    assert found["operations"] == {op: ops.why(op) for op in schema.SCHEMAS}
    assert found["isa"]["chosen"] == ops.isa() and found["isa"]["available"] == ops.available_isas()
    assert found["threads"] == torch.get_num_threads()
    assert found["cuda"]["available"] == torch.cuda.is_available()
    assert found["cuda"]["available"] or found["cuda"]["reason"]
    assert found["home"] == str(tmp_path / "models")
    assert found["environment"]["FASTSAM_HOME"] == found["home"]


def test_report_names_versions_instruction_set_and_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path / "models"))
    report = doctor.report()
    assert report.startswith(f"fastsam_core {fastsam_core.__version__}\n") and report.endswith("\n")
    assert f"{tmp_path / 'models'} (does not exist yet)" in report
    for word in (
        "python",
        "opencv",
        "threads",
        "instruction set",
        "rle_from_polygon",
        "CUDA",
        f"CUDA kernels  {doctor.collect()['cuda']['kernels']}",
    ):
        assert word in report
    serving = "reference" if ops.isa() is None else "cpu"
    assert re.search(rf"^  nms +{re.escape(serving)}$", report, re.MULTILINE)
    if ops.isa() is None:
        assert f"not in use: {ops.why('nms')['cpu']}" in report
    else:
        forced = os.environ.get("FASTSAM_ISA")
        assert f"{ops.isa()} ({'forced by FASTSAM_ISA' if forced else 'the best that this machine supports'})" in report


def test_report_gives_the_reason_why_native_code_is_off(monkeypatch):
    monkeypatch.setattr(doctor, "cpu_module", None)
    monkeypatch.setattr(doctor, "cpu_reason", "the disk is on fire")
    assert "not in use: the disk is on fire" in doctor.report()


def test_bundled_weights_are_listed(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam_test.safetensors").write_bytes(b"0" * 2_500_000)
    (tmp_path / "weights" / "README").write_text("no weights")
    monkeypatch.setattr(doctor, "files", lambda package: tmp_path)
    assert doctor.collect()["weights"] == {"sam_test.safetensors": 2_500_000}
    assert "sam_test.safetensors" in doctor.report() and "2.5 MB" in doctor.report()
    monkeypatch.setattr(doctor, "files", lambda package: tmp_path / "nothing")
    assert doctor.collect()["weights"] == {}


@pytest.mark.parametrize("limit", [2.5, None])
def test_report_warns_of_more_threads_than_the_container_allows(monkeypatch, limit):
    monkeypatch.setattr(doctor, "processor_limit", lambda: limit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert ("OMP_NUM_THREADS=3" in doctor.report()) == (limit is not None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert "OMP_NUM_THREADS=" not in doctor.report()
