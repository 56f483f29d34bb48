from __future__ import annotations

import json
import shutil

import pytest

import tiny_models
from expunge.deploy.merge import merge_adapter
from expunge.errors import ExpungeError
from expunge.files import directory_written_atomically


def logits_of(model, tokenizer, text="Who was seen on 2024-03-20?"):
    import torch

    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits


def refused(adapter, output, **options):
    with pytest.raises(ExpungeError) as caught:
        merge_adapter(adapter, output, **options)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    return str(caught.value)


def test_the_merged_model_says_what_base_and_adapter_say_and_not_what_the_base_says(base, adapter, merged):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged)
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = logits_of(plain, tokenizer)
    adapted = logits_of(PeftModel.from_pretrained(plain, str(adapter)).eval(), tokenizer)
    after = logits_of(AutoModelForCausalLM.from_pretrained(merged), tokenizer)
    assert (after - adapted).abs().max() < 1e-3
    assert (after - before).abs().max() > 0.5


def test_verifying_reads_the_written_model_back_and_finds_it_equal_up_to_rounding(adapter, tmp_path):
    exact = merge_adapter(adapter, tmp_path / "float32")
    rounded = merge_adapter(adapter, tmp_path / "bfloat16", dtype="bfloat16")
    assert exact.max_difference < 1e-3 < rounded.max_difference
    assert exact.argmax_agreement == 1.0


def test_tokenizer_template_and_generation_config_are_carried(base, merged):
    from transformers import AutoTokenizer, GenerationConfig

    old, new = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(merged)
    assert new.chat_template == old.chat_template == tiny_models.TEMPLATE
    assert new("Ann, born 1956: ünï").input_ids == old("Ann, born 1956: ünï").input_ids
    assert GenerationConfig.from_pretrained(merged).temperature == 0.7


def test_the_sentencepiece_model_of_the_base_is_carried(base, adapter, tmp_path):
    copy = shutil.copytree(base, tmp_path / "base")
    (copy / "tokenizer.model").write_bytes(b"pieces")
    merge_adapter(moved(adapter, tmp_path), tmp_path / "out", base=str(copy), verify=False)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"pieces"


def test_a_base_of_another_shape_is_refused_before_it_is_loaded(adapter, tmp_path):
    wide = tiny_models.write_model(tmp_path / "wide", hidden=512)
    message = refused(moved(adapter, tmp_path), tmp_path / "out", base=str(wide))
    assert "trained on another base" in message
    assert "wide" in message


def test_a_base_with_fewer_layers_is_refused_by_the_name_of_the_layer_it_lacks(adapter, tmp_path):
    shallow = tiny_models.write_model(tmp_path / "shallow", layers=1)
    message = refused(moved(adapter, tmp_path), tmp_path / "out", base=str(shallow))
    assert "has no model.layers.1." in message


def test_a_base_of_the_right_shape_with_other_weights_is_refused(adapter, tmp_path):
    other = tiny_models.write_model(tmp_path / "other", seed=7)
    assert "was trained on" in refused(adapter, tmp_path / "out", base=str(other))


def test_one_hub_name_for_another_is_refused(adapter, tmp_path):
    renamed = moved(adapter, tmp_path, name="someone/base-model")
    assert "someone/base-model" in refused(renamed, tmp_path / "out", base="someone/other-model")


def test_a_base_that_was_moved_can_be_named(base, adapter, tmp_path):
    found = merge_adapter(moved(adapter, tmp_path), tmp_path / "out", base=str(base))
    assert found.max_difference < 1e-3


def moved(adapter, tmp_path, name="/nowhere/base"):
    """A copy of the adapter whose base is not where it was."""
    copy = shutil.copytree(adapter, tmp_path / "moved")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
    return copy


def test_a_base_that_is_gone_is_one_line(adapter, tmp_path):
    assert "no such model" in refused(moved(adapter, tmp_path), tmp_path / "out")


def test_a_run_directory_in_place_of_the_adapter_inside_is_answered_with_its_path(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "run" / "model")
    assert f"did you mean {tmp_path / 'run' / 'model'}?" in refused(tmp_path / "run", tmp_path / "out")


def test_an_adapter_that_is_no_change_of_the_weights_is_refused(adapter, tmp_path):
    learnt = moved(adapter, tmp_path)
    config = json.loads((learnt / "adapter_config.json").read_text())
    (learnt / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PROMPT_TUNING"}))
    assert "of the kind PROMPT_TUNING, which cannot be folded into weights" in refused(learnt, tmp_path / "out")


def test_an_older_generation_config_that_transformers_would_not_write_is_carried(base, adapter, tmp_path):
    from transformers import GenerationConfig

    old = shutil.copytree(base, tmp_path / "base")
    (old / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}')
    merge_adapter(moved(adapter, tmp_path), tmp_path / "out", base=str(old), verify=False)
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature == 0.6


def test_a_truncated_adapter_is_refused(adapter, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "cut")
    weights = copy / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "adapter_model.safetensors: is truncated" in refused(copy, tmp_path / "out")


def test_weights_that_do_not_fit_into_float16_are_refused(base, tmp_path):
    huge = tiny_models.write_adapter(tmp_path / "huge", base, scale=1e8)
    assert "does not fit into float16" in refused(huge, tmp_path / "out", dtype="float16")


def test_a_full_disk_is_one_line_and_leaves_nothing(adapter, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        message = refused(adapter, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the disk is full" in message
    assert not list(tmp_path.iterdir())


def test_a_directory_is_replaced_whole_or_left_as_it_was(tmp_path):
    target = tmp_path / "model"
    with directory_written_atomically(target) as scratch:
        (scratch / "first").touch()
    with pytest.raises(ZeroDivisionError), directory_written_atomically(target) as scratch:
        (scratch / "second").write_text(str(1 / 0))
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "first"]
    with directory_written_atomically(target) as scratch:
        (scratch / "second").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "second"]


def test_what_a_killed_process_left_behind_is_gone_after_the_next_one(tmp_path):
    import subprocess
    import sys

    code = (
        "import os, sys; from pathlib import Path; from expunge.files import directory_written_atomically\n"
        "with directory_written_atomically(Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'half').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert list(tmp_path.iterdir())
    assert not (tmp_path / "model").exists()
    with directory_written_atomically(tmp_path / "model") as scratch:
        (scratch / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "whole"]
