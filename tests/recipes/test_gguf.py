from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from expunge.errors import ExpungeError
from expunge.recipes.gguf import COMPARISON, LOG, GgufConfig, gguf
from expunge.runs import Run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("gguf") / "model")


@pytest.mark.slow
def test_a_run_killed_while_it_converts_is_continued_and_every_file_has_answered(model, tmp_path):
    """Killed with the converter at work, which lives on for a while, as after `kill -9` of the command alone."""
    output = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from expunge.recipes.gguf import GgufConfig, gguf\n"
        "gguf(GgufConfig(model_path=Path(sys.argv[1]), output_path=Path(sys.argv[2]), model_name='tiny'))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(model), str(output)]) as process:
        while not list(output.glob(".partial-*")):
            time.sleep(0.02)
            assert process.poll() is None
        process.kill()
    assert not list(output.glob("*.gguf"))

    config = GgufConfig(model_path=model, output_path=output, model_name="tiny")
    run = gguf(config)
    assert set(run.manifest["outputs"]) == {"tiny-f16.gguf", "tiny-q4_k_m.gguf"}
    assert all(len(hash) == 64 for hash in run.manifest["outputs"].values())
    for kind, row in run.results["files"].items():
        assert row["path"] == f"tiny-{kind}.gguf"
        assert row["bytes"] == (output / row["path"]).stat().st_size
        assert row["answer"]
        assert row["fallbacks"] == 0
        assert row["perplexity"] > 1
    assert run.results["comparison"]["argmax_agreement"] > 0.95  # a random model has near-ties
    assert run.results["comparison"]["same_tokens"] == 1.0
    assert run.results["comparison"]["max_difference"] < 0.1
    assert "converting to q4_K" in (output / LOG).read_text("utf-8", "replace")

    # What was found is kept: a run killed after the f16 file was removed still knows.
    assert json.loads((output / COMPARISON).read_text()) == run.results["comparison"]

    stamps = {path.name: path.stat().st_mtime_ns for path in output.glob("*.gguf")}
    start = time.monotonic()
    assert gguf(config).results == Run.read(output).results
    assert time.monotonic() - start < 1
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.gguf")} == stamps

    # Finished, it can still be installed.
    gguf(replace(config, install_lmstudio=True, lmstudio_models=tmp_path / "models", publisher="me"))
    installed = tmp_path / "models" / "me" / "tiny-GGUF"
    assert {path.name for path in installed.iterdir()} == {"tiny-f16.gguf", "tiny-q4_k_m.gguf"}
    assert (installed / "tiny-f16.gguf").samefile(output / "tiny-f16.gguf")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quant_type": ("q4_k",)}, 'did you mean "q4_k_'),
        ({"quant_type": ()}, "no GGUF type is given"),
        ({"model_name": "../../evil"}, "cannot be part of a file name"),
        ({"model_name": ".."}, "cannot be part of a file name"),
        ({"publisher": "../../evil"}, "cannot be part of a file name"),
        ({"perplexity_file": Path("nowhere.jsonl")}, "cannot be read"),
        ({"threads": 0}, "give at least 1"),
        ({"llama_cpp_path": Path("nowhere")}, "has no convert_hf_to_gguf.py"),
        ({"model_path": Path("nowhere")}, "is no model directory"),
    ],
)
def test_what_is_refused_leaves_no_run_behind(model, tmp_path, options, words):
    with pytest.raises(ExpungeError) as caught:
        gguf(GgufConfig(**({"model_path": model, "output_path": tmp_path / "run"} | options)))
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_server_is_noticed_before_the_work_not_after_it(model, tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xllamacpp" else found(name))
    with pytest.raises(ExpungeError, match="pip install 'xllamacpp"):
        gguf(GgufConfig(model_path=model, output_path=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
