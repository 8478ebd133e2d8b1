"""Weights that no model can run with: nan, inf, values that a cast loses, quantized tensors."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rmas.errors import InputError
from rmas.models import parse_spec
from rmas.weights import load_params, save_params
from rmas.weights.files import DTYPES, is_finite, open_files
from support.tiny_families import family_params, family_spec

HYBRID = family_spec("qwen3_5")
STACKED = "model.layers.{}.mlp.up_proj.weight"


def read_all(folder) -> dict[str, np.ndarray]:
    with open_files(folder) as files:
        return {n: files.read(n, (slice(None),) * len(files.shape(n))) for n in files.names}


def on_host(path, shape, dtype, read):
    """Reads a parameter whole, and puts it nowhere."""
    return read((slice(None),) * len(shape))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The tensors of a tiny model with layers of both kinds."""
    folder = tmp_path_factory.mktemp("whole")
    save_params(HYBRID, family_params(HYBRID), folder)
    return read_all(folder)


def write(folder, tensors, name=None, value=None, dtype=None):
    """The tensors, with one value of one of them changed, the last of all."""
    tensors = {n: a.astype(dtype or a.dtype) for n, a in tensors.items()}
    if name:
        changed = tensors[name].copy()
        changed[(-1,) * changed.ndim] = value
        tensors[name] = changed
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_every_tensor_is_looked_at(stored, tmp_path):
    """Alone and stacked, whole and in fused parts."""
    load_params(HYBRID, write(tmp_path, stored), place=on_host)
    assert len(stored) > 50
    for name in sorted(stored):
        write(tmp_path, stored, name, np.nan)
        with pytest.raises(InputError, match=rf"{tmp_path}: {name} holds nan or inf"):
            load_params(HYBRID, tmp_path, place=on_host)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_in_every_stored_type(stored, tmp_path, dtype, value):
    name = STACKED.format(3)
    write(tmp_path, stored, name, value, dtype)
    for options in ({}, {"dtype": np.float32}, {"dtype": np.float16}):
        with pytest.raises(InputError, match=f"{name} holds nan or inf") as error:
            load_params(HYBRID, tmp_path, place=on_host, **options)
        assert "\n" not in str(error.value)


def test_on_a_device_and_as_int8(stored, tmp_path):
    """The first tensor that is read is the damaged one, so that little is loaded."""
    name = "model.embed_tokens.weight"
    write(tmp_path, stored, name, np.inf)
    for quantize in (False, True):
        with pytest.raises(InputError, match=f"{name} holds nan or inf"):
            load_params(HYBRID, tmp_path, np.float32, quantize=quantize)


@pytest.mark.parametrize(
    ("value", "dtype"), [(1e5, np.float16), (1e39, np.float32), (3.4e38, ml_dtypes.bfloat16)]
)
@pytest.mark.parametrize("name", [STACKED.format(0), "model.embed_tokens.weight"])
def test_values_that_the_wanted_type_does_not_hold(stored, tmp_path, value, dtype, name):
    write(tmp_path, stored, name, value, np.float64)
    with pytest.raises(InputError, match=f"{name} .* beyond the range of {np.dtype(dtype)}"):
        load_params(HYBRID, tmp_path, dtype, on_host)
    write(tmp_path, stored, name, 1e4, np.float64)
    load_params(HYBRID, tmp_path, dtype, on_host)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_the_test_itself(dtype):
    """Any value of the type, at any place, in any layout; several blocks."""
    limit = ml_dtypes.finfo(dtype)
    good = np.array([0, -0.0, 1, limit.max, limit.min, limit.tiny, limit.smallest_subnormal])
    array = np.tile(good.astype(dtype), 30_000).reshape(300, 700)
    assert is_finite(array)
    assert is_finite(array[:, ::3].T)
    assert is_finite(array[:0])
    for at in ((0, 0), (299, 699), (150, 31)):
        for value in (np.nan, -np.nan, np.inf, -np.inf):
            wrong = array.copy()
            wrong[at] = value
            assert not is_finite(wrong)
            assert not is_finite(wrong.T)
            assert not is_finite(wrong[at[0] : at[0] + 1, at[1]])


def test_quantized_tensors_are_named(tmp_path):
    """What `config.json` does not say shows in the names and types of the tensors."""
    spec = parse_spec(
        {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
         "num_hidden_layers": 1, "num_attention_heads": 2}, "here",
    )  # fmt: skip
    folder = tmp_path
    save_params(spec, family_params(spec), folder)
    whole = read_all(folder)
    q = "model.layers.0.self_attn.q_proj."
    rest = {n: a for n, a in whole.items() if n != q + "weight"}
    packed, scale = np.zeros((1, 8), np.int32), np.ones((1, 8), np.float16)
    for extra, what in (
        ({q + "qweight": packed, q + "qzeros": packed, q + "scales": scale}, "GPTQ or AWQ"),
        ({q + "weight_packed": packed, q + "weight_scale": scale}, "compressed-tensors"),
        ({q + "weight": packed, q + "weight.absmax": scale}, "bitsandbytes"),
        ({q + "weight": packed, q + "scales": scale, q + "biases": scale}, "GPTQ, AWQ or MLX"),
    ):
        save_file(rest | extra, folder / "model.safetensors")
        told = rf"{q}\w+.*; the weights are quantized with {what}: use the unquantized model"
        with pytest.raises(InputError, match=told):
            load_params(spec, folder, place=on_host)
    lora = {q + "lora_A.default.weight": scale}
    for extra in (lora, {"base_model.model." + n: a for n, a in whole.items()}):
        save_file(whole | extra, folder / "model.safetensors")
        told = "unexpected .*; they are those of a LoRA adapter: merge it into its base model"
        with pytest.raises(InputError, match=told):
            load_params(spec, folder, place=on_host)
    save_file(whole | {q + "weight": whole[q + "weight"].astype(ml_dtypes.float8_e4m3fn)},
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match=r"stored as F8_E4M3; .* \(quantized weights are not read"):
        load_params(spec, folder)
