"""Tells what a model folder is that cannot be read, and what to use instead.

What only shows in the weights themselves is told where they are read (`rmas.weights`).
"""

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.files import read_json
from rmas.models.fields import shown
from rmas.places import has_file

POINTER, POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024
"""How a Git LFS pointer begins, and the size that it is smaller than."""
READ = ("*.json", "model*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""The files of a model folder that are read, whatever is asked of it."""
SAVE = "load it with transformers and save it with save_pretrained, which writes safetensors"
ORIGINAL = "use the unquantized model (quantize=int8 holds its matrices in 8 bits)"
FORMATS = {
    "*.gguf": ("GGUF weights (llama.cpp)", "use the model's safetensors weights"),
    "ggml*.bin": ("GGML weights (llama.cpp)", "use the model's safetensors weights"),
    "pytorch_model*.bin": ("PyTorch weights as pickles", SAVE),
    "consolidated*": (
        "weights in the layout of their author",
        "use the Hugging Face layout (config.json, model.safetensors)",
    ),
    "model*.bin": ("PyTorch weights as pickles", SAVE),
    "model*.pth": ("PyTorch weights as pickles", SAVE),
    "*.ckpt": ("PyTorch weights as pickles", SAVE),
    "tf_model*.h5": ("TensorFlow weights", SAVE),
    "flax_model*.msgpack": ("Flax weights", SAVE),
    "*.onnx": ("ONNX programs", "use the model's safetensors weights"),
    "weights*.npz": ("MLX weights", "use the model's safetensors weights"),
    "*.mlmodel": ("Core ML programs", "use the model's safetensors weights"),
}
"""Patterns of files with weights in other formats: what they hold, and the way out."""
METHODS = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "bitsandbytes": "bitsandbytes",
    "fp8": "FP8",
    "fbgemm_fp8": "FBGEMM FP8",
    "mxfp4": "MXFP4",
}
"""Names of methods of quantization that differ from those in the files."""
QUANTIZED_TENSORS = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "scales": "GPTQ, AWQ or MLX",
    "biases": "MLX",
    "weight_packed": "compressed-tensors",
    "weight_scale": "FP8 or compressed-tensors",
    "weight_scale_inv": "FP8",
    "input_scale": "FP8",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "SCB": "bitsandbytes",
}
"""Last parts of the names of tensors of quantized weights, and what writes them."""
_QUANTIZATION = ("quantization_config", "quantization", "compression_config", "quant_config")
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_SPARSE = (
    "mixtral", "dbrx", "deepseek_v2", "deepseek_v3", "deepseek_v4", "gpt_oss", "jamba", "arctic",
    "llama4", "qwen3_next", "minimax", "grok", "switch_transformers", "aria", "dots1", "flex_olmo",
    "kimi_k2", "kimi_linear", "longcat_flash", "mimo_v2_flash",
)  # fmt: skip
"""How the `model_type` of mixtures of experts begins, where it does not hold `moe`."""
_ADAPTERS = ("adapter_model.*", "adapters.safetensors", "pytorch_adapter.bin")
_MERGE = "(peft: merge_and_unload, then save_pretrained)"


def format_of(name: str) -> tuple[str, str] | None:
    """What a file with weights in another format holds, and the way out; None for other files."""
    name = name.lower()
    return next((what for glob, what in FORMATS.items() if fnmatch.fnmatchcase(name, glob)), None)


def refuse_folder(directory: Path) -> None:
    """Refuses a folder that is not a model in safetensors files, by the files in it.

    A folder without weights is not refused: its configuration may be all that is needed.

    Raises:
      InputError: files are Git LFS pointers, or weights pipes; or it holds an adapter, a
        diffusion pipeline, quantized weights, or weights in another format only.
    """
    try:
        names = sorted(file.name for file in directory.iterdir() if file.is_file())
    except OSError:  # the caller tells that there is no such folder
        return
    for file in sorted(file for glob in READ for file in directory.glob(glob)):
        refuse_pointer(file)
    for file in sorted(directory.glob("*.safetensors")):
        has_file(file)  # raises for a pipe, which would block whoever reads it
    refuse_adapter(directory, names)
    if "model_index.json" in names and "config.json" not in names:
        raise InputError(
            f"{directory} is a pipeline of diffusers, not a language model; an agent is a folder "
            "with config.json, safetensors weights and a tokenizer"
        )
    weights = [n for n in names if n.endswith(".safetensors") and format_of(n) is None]
    for name, known in ((n, format_of(n)) for n in names if not weights):
        if known:
            what, way = known
            raise InputError(f"{directory} holds {what} ({name}), which are not read; {way}")
    for name in _QUANTIZATION_FILES:
        if name in names and _is_quantization(found := _json(directory / name)):
            raise InputError(_quantized(directory / name, found.get("quantization") or found))


def refuse_pointer(path: Path) -> None:
    """Refuses a file that is a Git LFS pointer.

    Raises:
      InputError: it is one; the message says how to get its content. A file that is missing or
        cannot be read is none.
    """
    try:
        # Only files: opening a pipe would wait for ever.
        if not path.is_file() or path.stat().st_size >= POINTER_BYTES:
            return
        with path.open("rb") as file:
            if file.read(len(POINTER)) != POINTER:
                return
    except OSError:
        return
    raise InputError(
        f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or "
        "download the folder with `hf download`"
    )


def refuse_adapter(directory: Path, names: list[str]) -> None:
    """Refuses the adapters of other libraries (LoRA, ...).

    The release's own `adapter_config.json`, beside a link, holds nothing but `adapter_type`.

    Raises:
      InputError: the folder is an adapter; the message names its base model if the folder does.
    """
    listed = "adapter_config.json" in names
    manifest = _json(directory / "adapter_config.json") if listed else {}
    files = [n for n in names if any(fnmatch.fnmatch(n, glob) for glob in _ADAPTERS)]
    alone = "config.json" not in names and (files or (listed and "adapter_type" not in manifest))
    if not (alone or "peft_type" in manifest or "fine_tune_type" in manifest):
        return
    kind = manifest.get("peft_type") or manifest.get("fine_tune_type")
    what = f"a {kind[:20].upper()} adapter" if isinstance(kind, str) else "an adapter"
    keys = ("base_model_name_or_path", "model", "model_name")
    base = next((shown(manifest[k]) for k in keys if isinstance(manifest.get(k), str)), "")
    rest = "; if it is merged already, remove adapter_config.json" if not alone else ""
    raise InputError(
        f"{directory} holds {what}, not a whole model; merge it into its base model"
        f"{base and ' ' + base} {_MERGE} and use the result{rest}"
    )


def refuse_config(config: Mapping[str, Any], where: str) -> None:
    """Refuses quantized weights, mixtures of experts and layers with settings of their own.

    Args:
      config: the content of a `config.json`, or its `text_config`.
      where: names it in errors.

    Raises:
      InputError: what it is, and the way out.
    """
    for key in _QUANTIZATION:
        if config.get(key):
            raise InputError(_quantized(f"{where}: '{key}'", config[key], key == "quantization"))
    inner = (config.get(key) for key in ("text_config", "ffn_config"))
    parts = [config, *(part for part in inner if isinstance(part, dict))]
    experts = next((key for part in parts for key in _EXPERTS if part.get(key)), None)
    if experts or any(_is_sparse(part.get("model_type")) for part in parts):
        reason = f" ('{experts}')" if experts else ""
        kind = config.get("model_type", "")
        raise InputError(
            f"{where}: {shown(kind)} is a mixture-of-experts model{reason}; only dense ones are "
            "supported: use a dense model of a supported family"
        )
    if config.get("per_layer_config"):
        raise InputError(f"{where}: 'per_layer_config' is not read; all layers must have one size")


def _is_sparse(kind: object) -> bool:
    name = kind.lower().replace("-", "_") if isinstance(kind, str) else ""
    return "moe" in name or name.startswith(_SPARSE)


def told_by_tensors(names: Iterable[str]) -> str:
    """What tensors of these names are, with the way out, as the end of a message.

    Empty where they are neither those of quantized weights nor of adapters.
    """
    names = list(names)
    if any(name.startswith("base_model.model.") or ".lora_" in name for name in names):
        return f"; they are those of a LoRA adapter: merge it into its base model {_MERGE}"
    lasts = {name.rpartition(".")[2] for name in names}
    what = next((what for last, what in QUANTIZED_TENSORS.items() if last in lasts), "")
    return f"; the weights are quantized with {what}: {ORIGINAL}" if what else ""


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one if it holds none, which others tell where it matters."""
    try:
        found = read_json(path)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_quantization(found: Mapping[str, Any]) -> bool:
    return any(key in found for key in ("bits", "w_bit", "quant_method", "quantization"))


def _quantized(where: str | Path, settings: Any, mlx: bool = False) -> str:
    """That weights are quantized, by what, and the way out."""
    own = settings if isinstance(settings, dict) else {}
    method = settings if not own else own.get("quant_method") or own.get("quant_algo")
    if isinstance(method, str):
        what = METHODS.get(method.lower(), shown(method).strip("'"))
    elif any(str(key).startswith(("load_in_", "bnb_", "_load_in_")) for key in own):
        what = METHODS["bitsandbytes"]
    elif mlx or (own.keys() >= {"group_size", "bits"} and "desc_act" not in own):
        what = "MLX"
    else:
        what = METHODS["gptq"] if "desc_act" in own else "an unknown method"
    return f"{where}: the weights are quantized with {what}, which is not read; {ORIGINAL}"
