from __future__ import annotations

import pytest

import tiny_models


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, base):
    return tiny_models.write_adapter(tmp_path_factory.mktemp("adapter") / "adapter", base)


@pytest.fixture(scope="session")
def merged(tmp_path_factory, adapter):
    from expunge.deploy.merge import merge_adapter

    path = tmp_path_factory.mktemp("merged") / "merged"
    merge_adapter(adapter, path, verify=False)
    return path


@pytest.fixture(scope="session")
def ggufs(tmp_path_factory, merged):
    """The files of one conversion, by type, and the log it left."""
    from expunge.deploy.gguf import make_gguf

    output = tmp_path_factory.mktemp("gguf")
    files = make_gguf(merged, output, ["f16", "q4_k_m", "q8_0"], name="tiny", log=output / "log")
    return {file.type: file for file in files}
