"""What cannot be read says what it is and what to use instead, before anything is loaded."""

import json
import os
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from rmas.errors import InputError
from rmas.models import read_spec
from rmas.models.unsupported import FORMATS, READ
from support.configurations import GEMMA3, LLAMA, SIZES, read

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    f"oid sha256:{'4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393'}\n"
    "size 4981138944\n"
)
WAY_OUT = "use the unquantized model"
# settings -> the name in the message, as their writers write them
QUANTIZED = [
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "AWQ"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "GPTQ"),
    ({"bits": 4, "group_size": 128, "desc_act": False}, "GPTQ"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ({"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
    ({"quant_method": "fbgemm_fp8"}, "FBGEMM FP8"),
    ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    ({"quant_method": "mxfp4"}, "MXFP4"),
    ({"quant_method": "hqq"}, "hqq"),
    ({"quant_algo": "NVFP4"}, "NVFP4"),
    ({"group_size": 64, "bits": 4}, "MLX"),
    ({"what": 1}, "an unknown method"),
    ("awq", "AWQ"),
    ([1], "an unknown method"),
]


def write(folder, **files):
    """Files by name, dots written as two underscores: objects as JSON, texts and bytes as such."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def refused(folder, *parts: str) -> str:
    """The message, which has all parts and is one line of a sane length."""
    with pytest.raises(InputError) as error:
        read_spec(folder)
    told = str(error.value)
    assert str(folder) in told
    assert "\n" not in told
    assert len(told) < 450
    for part in parts:
        assert part in told, told
    return told


@pytest.mark.parametrize(("settings", "name"), QUANTIZED)
def test_quantized_weights(settings, name):
    told = f"the weights are quantized with {name}, which is not read; {WAY_OUT}"
    for config in (
        LLAMA | {"quantization_config": settings},
        {"model_type": "gemma3", "text_config": GEMMA3, "quantization_config": settings},
        {"model_type": "gemma3", "text_config": GEMMA3 | {"quantization_config": settings}},
        SIZES | {"model_type": "mixtral", "quantization_config": settings},
    ):
        with pytest.raises(InputError, match=re.escape(told)) as error:
            read(config)
        assert "'quantization_config'" in str(error.value)


def test_quantized_by_other_keys_and_files(tmp_path):
    mlx = {"group_size": 64, "bits": 4}
    with pytest.raises(InputError, match=r"'quantization': .* quantized with MLX"):
        read(LLAMA | {"quantization": mlx})
    with pytest.raises(InputError, match=r"'quantization_config': .* quantized with MLX"):
        read(LLAMA | {"quantization": mlx, "quantization_config": mlx})
    with pytest.raises(InputError, match="'compression_config'"):
        read(LLAMA | {"compression_config": {"quant_method": "compressed-tensors"}})
    assert read(LLAMA | {"quantization_config": None, "quantization": {}}) == read(LLAMA)
    write(tmp_path, config__json=LLAMA, model__safetensors=b"")
    for name, settings, what in (
        ("quantize_config.json", {"bits": 4, "desc_act": True, "group_size": 8}, "GPTQ"),
        ("quant_config.json", {"w_bit": 4, "zero_point": True}, "an unknown method"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "FP8"),
    ):
        write(tmp_path, **{name: settings})
        refused(tmp_path, name, f"quantized with {what}", WAY_OUT)
        (tmp_path / name).unlink()
    write(tmp_path, quantize_config__json={"per_channel": True})  # of ONNX files beside the model
    assert read_spec(tmp_path) == read(LLAMA)


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [
        ({"peft_type": "LORA", "base_model_name_or_path": "owner/base", "r": 8}, "LORA adapter"),
        ({"peft_type": "IA3", "base_model_name_or_path": "owner/base"}, "IA3 adapter"),
        ({"fine_tune_type": "dora", "model": "owner/base", "num_layers": 8}, "DORA adapter"),
        ({"config": {"reduction_factor": 16}, "model_name": "owner/base"}, "holds a adapter"),
    ],
)
def test_adapters_of_other_libraries(tmp_path, manifest, kind):
    write(tmp_path, adapter_config__json=manifest, adapter_model__safetensors=b"")
    refused(tmp_path, kind.replace(" a adapter", " an adapter"), "'owner/base'", "merge")
    if "config" in manifest:
        return
    write(tmp_path, config__json=LLAMA, model__safetensors=b"")
    refused(tmp_path, kind, "'owner/base'", "if it is merged already, remove adapter_config.json")


def test_adapters_without_a_manifest(tmp_path):
    for name in ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors"):
        write(tmp_path, **{name: b""})
        refused(tmp_path, "holds an adapter, not a whole model", "merge_and_unload")
        (tmp_path / name).unlink()
    for manifest in ("{", "[]", "{}", ""):
        write(tmp_path, adapter_config__json=manifest)
        refused(tmp_path, "holds an adapter, not a whole model", "merge_and_unload")


def test_the_releases_own_adapter_config_is_none_of_them(tmp_path):
    write(tmp_path, config__json=LLAMA, adapter_config__json={"adapter_type": "ln_res_adapter"})
    write(tmp_path, **{"adapter(math).pt": b"", "model.safetensors": b""})
    assert read_spec(tmp_path) == read(LLAMA)
    write(tmp_path, adapter_config__json="{")  # whoever reads it tells
    assert read_spec(tmp_path) == read(LLAMA)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json",
     "tokenizer.model", "tokenizer_config.json", "generation_config.json", "vocab.txt",
     "model.safetensors.index.json", "chat_template.jinja"],
)  # fmt: skip
def test_git_lfs_pointers(tmp_path, name):
    write(tmp_path, config__json=LLAMA, model__safetensors=b"")
    write(tmp_path, **{name: POINTER})
    refused(tmp_path, f"{name} is a Git LFS pointer", "git lfs pull", "hf download")


def test_pointers_that_are_not_read_do_not_matter(tmp_path):
    write(tmp_path, config__json=LLAMA, model__safetensors=b"", README__md=POINTER)
    write(tmp_path, **{"pytorch_model.bin": POINTER, "consolidated.safetensors": POINTER})
    write(tmp_path, **{"adapter(code).pt": POINTER})  # told where it is read
    (tmp_path / "original").mkdir()
    write(tmp_path / "original", **{"params.json": POINTER})
    os.mkfifo(tmp_path / "tokenizer.json")  # not opened: that would wait for ever
    assert read_spec(tmp_path) == read(LLAMA)
    assert any(glob == "*.json" for glob in READ)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Llama-Q4_K_M.gguf", "GGUF weights"),
        ("MODEL.GGUF", "GGUF weights"),
        ("PyTorch_Model.BIN", "PyTorch weights"),
        ("ggml-model-q4_0.bin", "GGML weights"),
        ("pytorch_model.bin", "PyTorch weights"),
        ("pytorch_model-00001-of-00002.bin", "PyTorch weights"),
        ("consolidated.00.pth", "in the layout of their author"),
        ("consolidated.safetensors", "in the layout of their author"),
        ("model.ckpt", "PyTorch weights"),
        ("tf_model.h5", "TensorFlow weights"),
        ("flax_model.msgpack", "Flax weights"),
        ("model.onnx", "ONNX programs"),
        ("weights.00.npz", "MLX weights"),
    ],
)
def test_weights_in_other_formats(tmp_path, name, what):
    write(tmp_path, **{name: b"\0" * 2000})
    refused(tmp_path, what, f"({name})", "which are not read; ", "safetensors")
    write(tmp_path, config__json=LLAMA)
    refused(tmp_path, what, name)
    write(tmp_path, model__safetensors=b"")  # then the other file does not matter
    assert read_spec(tmp_path) == read(LLAMA)


def test_a_folder_without_weights_is_planned_with(tmp_path):
    write(tmp_path, config__json=LLAMA, training_args__bin=b"\0", optimizer__pt=b"\0")
    assert read_spec(tmp_path) == read(LLAMA)
    assert len(FORMATS) > 10


@pytest.mark.parametrize("name", ["model.safetensors", "more.safetensors"])
def test_weights_that_are_no_files(tmp_path, name):
    write(tmp_path, config__json=LLAMA)
    os.mkfifo(tmp_path / name)
    refused(tmp_path, f"{name} is a pipe; a file must be there, or nothing")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("nowhere")
    refused(tmp_path, f"{name} is a link to nothing")


def test_configurations_as_windows_writes_them(tmp_path):
    """With a byte order mark; a key that is there twice is refused."""
    write(tmp_path, config__json=b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert read_spec(tmp_path) == read(LLAMA)
    write(tmp_path, config__json=json.dumps(LLAMA)[:-1] + ', "hidden_size": 64}')
    refused(tmp_path, "config.json is not valid JSON: 'hidden_size' is there twice in one object")


def test_pipelines_of_diffusers(tmp_path):
    write(tmp_path, model_index__json={"_class_name": "StableDiffusionPipeline"})
    refused(tmp_path, "is a pipeline of diffusers, not a language model")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mixtral"},
        {"model_type": "qwen3_moe", "num_experts": 128},
        {"model_type": "deepseek_v3", "n_routed_experts": 256},
        {"model_type": "gpt_oss", "num_local_experts": 32},
        {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 16}},
        {"model_type": "llama4", "text_config": {"num_local_experts": 16}},
        {"model_type": "kimi_vl", "text_config": {"n_routed_experts": 64}},
        {"model_type": "granitemoehybrid"},
        {"model_type": "kimi_vl", "text_config": {"model_type": "deepseek_v3"}},
        *(
            {"model_type": kind}
            for kind in (
                "qwen3_next",
                "minimax",
                "minimax_m2",
                "MiniMaxText01",
                "grok-1",
                "jamba",
                "switch_transformers",
                "dbrx",
                "deepseek_v2",
                "gpt_oss",
                "olmoe",
                "phimoe",
                "granitemoe",
                "llama4",
                "llama4_text",
                "qwen2_moe",
            )
        ),
    ],
    ids=lambda config: config["model_type"],
)
def test_mixtures_of_experts(config):
    told = f"'{config['model_type']}' is a mixture-of-experts model"
    with pytest.raises(InputError, match=rf"^config\.json: {told}.* use a dense model"):
        read(SIZES | config)


@pytest.mark.parametrize("kind", ["bert", "clip", "t5", "gemma2", "phi3", "whisper", "qwen2_vl"])
def test_other_architectures_list_what_is_supported(kind):
    with pytest.raises(
        InputError, match=f"unknown architecture '{kind}'; supported: gemma3, .*ama"
    ):
        read({"model_type": kind, "vision_config": {}})


def test_layers_of_several_sizes():
    with pytest.raises(InputError, match="'per_layer_config' is not read"):
        read(LLAMA | {"per_layer_config": {"0": {"intermediate_size": 8}}})


def test_adapters_and_others_as_arrays_on_disk(tmp_path):
    """A whole LoRA folder, as its library writes it."""
    arrays = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((8, 4))}
    save_file(arrays, tmp_path / "adapter_model.safetensors")
    manifest = {"peft_type": "LORA", "base_model_name_or_path": None, "target_modules": ["q_proj"]}
    write(tmp_path, adapter_config__json=manifest, README__md="# An adapter")
    assert "model None" not in refused(tmp_path, "LORA adapter", "merge it into its base model (")
