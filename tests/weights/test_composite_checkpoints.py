"""Checkpoints that hold a text model beside other parts, in each layout of names."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rmas.errors import InputError
from rmas.models import read_spec
from rmas.weights import load_params
from support import rollouts

torch = pytest.importorskip("torch")
from support import tiny_hf  # noqa: E402 - it needs torch

# The composite class of gemma3 leaves out the soft cap of logits; files of that kind have none.
UNCAPPED = {"final_logit_softcapping": None}
CASES = {
    "gemma3": UNCAPPED,
    "gemma3_biased": {},  # with a head of its own
    "qwen3_5": {},
    "qwen3_5_untied": {},
}
OTHERS = {
    "gemma3": ("vision_tower.", "multi_modal_projector."),
    "qwen3_5": ("visual.", "mtp."),
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """A case's folder as transformers writes the composite, and the composite itself."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_hf.composite(request.param, **CASES[request.param])
    model.save_pretrained(folder)
    return request.param, folder, model


def copied(folder, to, tensors):
    """The same configuration with other tensors."""
    shutil.copy(folder / "config.json", to)
    save_file(tensors, to / "model.safetensors")
    return to


def renamed(folder, old: str, new: str) -> dict[str, np.ndarray]:
    """Tensors with the beginnings of their names changed."""
    stored = load_file(folder / "model.safetensors")
    return {re.sub(f"^{re.escape(old)}", new, name): a for name, a in stored.items()}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_text_model_is_found_and_runs(tiny, saved):
    case, folder, model = saved
    spec, flat = read_spec(folder), tiny(case)
    uncapped = flat.spec.logit_softcap is None
    assert (spec == flat.spec) == uncapped
    params = load_params(spec, folder)
    same(params, flat.params)
    x = np.random.default_rng(0).standard_normal((2, 18, 32)).astype(np.float32)
    valid = np.arange(18) >= np.array([[0], [7]])
    h, logits = rollouts.whole(spec, params, x, valid)
    h_hf, logits_hf = tiny_hf.hidden_and_logits(model, x, valid)
    np.testing.assert_allclose(np.asarray(h)[valid], h_hf[valid], rtol=0, atol=3e-5)
    np.testing.assert_allclose(np.asarray(logits)[valid], logits_hf[valid], rtol=0, atol=5e-5)


def test_other_layouts_of_names_hold_the_same(saved, tmp_path):
    """transformers has written `language_model.model.*` and `model.language_model.*`; text alone
    is `model.*`, under either configuration."""
    _, folder, _ = saved
    spec = read_spec(folder)
    params = load_params(spec, folder)
    if spec.family == "gemma3":
        old = renamed(folder, "language_model.model.", "model.language_model.")
        old = {n.removeprefix("language_model."): a for n, a in old.items()}
        old = {re.sub(r"^(vision|multi)", r"model.\1", n): a for n, a in old.items()}
        flat = renamed(folder, "language_model.", "")
    else:
        old = renamed(folder, "model.visual.", "visual.")
        flat = renamed(folder, "model.language_model.", "model.")
    stored = load_file(folder / "model.safetensors")
    assert old.keys() != stored.keys() != flat.keys()
    for name, tensors in {"old": old, "flat": flat}.items():
        (tmp_path / name).mkdir()
        same(params, load_params(spec, copied(folder, tmp_path / name, tensors)))
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "flat" / "config.json").write_text(json.dumps(config["text_config"]))
    assert read_spec(tmp_path / "flat") == spec


def test_other_parts_are_ignored_by_name_and_nothing_else(saved, tmp_path):
    _, folder, _ = saved
    spec = read_spec(folder)
    stored = load_file(folder / "model.safetensors")
    one = np.ones(1, np.float32)
    for other in OTHERS[spec.family]:
        more = {f"{other}layers.0.weight": one, f"{other}norm.weight": one}
        load_params(spec, copied(folder, tmp_path, stored | more))
    for other in ("audio_tower.x", "model.embed_audio.weight", "model.norm.bias"):
        with pytest.raises(InputError, match=f"unexpected 1 tensors: {other}$"):
            load_params(spec, copied(folder, tmp_path, stored | {other: one}))
    # What one family ignores, another does not know.
    (foreign,) = (o for f, (o, _) in OTHERS.items() if f != spec.family)
    with pytest.raises(InputError, match=f"unexpected 1 tensors: {foreign}x$"):
        load_params(spec, copied(folder, tmp_path, stored | {f"{foreign}x": one}))


def test_a_text_tensor_that_is_missing_is_named_in_the_layout_of_the_file(saved, tmp_path):
    _, folder, _ = saved
    spec = read_spec(folder)
    stored = load_file(folder / "model.safetensors")
    name = next(n for n in stored if "language_model" in n and n.endswith("1.mlp.up_proj.weight"))
    del stored[name]
    with pytest.raises(InputError, match=f"missing 1 tensors: {re.escape(name)}$"):
        load_params(spec, copied(folder, tmp_path, stored))
