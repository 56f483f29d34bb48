from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from expunge.errors import ExpungeError
from expunge.recipes.merge import MODEL, MergeConfig, merge
from expunge.runs import Run


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    directory = tmp_path_factory.mktemp("merge")
    return tiny_models.write_adapter(directory / "adapter", tiny_models.write_model(directory / "base"))


def test_a_merge_leaves_a_run_with_the_model_and_how_exact_it_is(adapter, tmp_path, capsys):
    merge(MergeConfig(lora_path=adapter, output_path=tmp_path / "run"))
    run = Run.read(tmp_path / "run")
    assert run.results["verification"]["argmax_agreement"] == 1.0
    assert run.results["verification"]["max_difference"] < 1e-3
    assert run.results["verification"]["answer"]
    assert set(run.manifest["inputs"]) == {"lora_path", "base_model"}
    assert sorted(path.name for path in run.path.iterdir() if path.name[0] != ".") == ["manifest.json", MODEL]
    said = capsys.readouterr().err
    assert "100% of positions" in said
    assert 'Asked "Hello! Who are you?", it says: "' in said


def test_a_second_merge_answers_at_once_and_touches_nothing(adapter, tmp_path):
    config = MergeConfig(lora_path=adapter, output_path=tmp_path / "run", verify=False)
    merge(config)
    weights = tmp_path / "run" / MODEL / "model.safetensors"
    before = weights.stat()
    assert merge(config).finished
    assert weights.stat() == before


def test_a_model_that_was_removed_is_merged_again(adapter, tmp_path):
    config = MergeConfig(lora_path=adapter, output_path=tmp_path / "run", verify=False)
    first = merge(config).manifest["outputs"]
    (tmp_path / "run" / MODEL).rename(tmp_path / "elsewhere")
    assert merge(config).manifest["outputs"] == first
    assert (tmp_path / "run" / MODEL / "model.safetensors").exists()


def test_another_type_of_weights_in_the_same_run_is_refused(adapter, tmp_path):
    merge(MergeConfig(lora_path=adapter, output_path=tmp_path / "run", verify=False))
    with pytest.raises(ExpungeError, match='dtype was "float32", now "float16"'):
        merge(MergeConfig(lora_path=adapter, output_path=tmp_path / "run", verify=False, dtype="float16"))


def test_what_is_refused_leaves_no_run_behind(adapter, tmp_path):
    narrow = tiny_models.write_model(tmp_path / "narrow", layers=1)
    for config in (
        MergeConfig(lora_path=tmp_path, output_path=tmp_path / "run"),
        MergeConfig(lora_path=adapter, output_path=tmp_path / "run", dtype="float8"),
        MergeConfig(lora_path=adapter, output_path=tmp_path / "run", base_model=str(narrow)),
        MergeConfig(lora_path=adapter, output_path=tmp_path / "run", base_model=str(tmp_path / "nothing")),
    ):
        with pytest.raises(ExpungeError):
            merge(config)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.75, 1.25])
def test_a_part_of_an_adapter_moves_every_weight_by_that_part(adapter, tmp_path, share):
    base = load_file(adapter.parent / "base" / "model.safetensors")
    whole, part = (
        load_file(
            merge(MergeConfig(lora_path=adapter, output_path=tmp_path / str(scale), scale=scale)).path
            / MODEL
            / "model.safetensors"
        )
        for scale in (1.0, share)
    )
    moved = 0
    for name, weight in base.items():
        torch.testing.assert_close(part[name] - weight, share * (whole[name] - weight), rtol=1e-3, atol=1e-6)
        moved += bool((whole[name] != weight).any())
    assert moved > 4


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.5])
def test_no_part_and_more_than_twice_an_adapter_are_refused(adapter, tmp_path, scale):
    with pytest.raises(ExpungeError, match="--scale is"):
        merge(MergeConfig(lora_path=adapter, output_path=tmp_path / "run", scale=scale))
    assert not (tmp_path / "run").exists()
