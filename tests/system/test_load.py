"""Agents from disk: shared once, checked, fingerprinted."""

import gc
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rmas.errors import InputError
from rmas.system.load import System, fingerprint, load_agents
from rmas.system.outline import Outline
from rmas.system.prompts import from_json
from rmas.system.styles import SEQUENTIAL
from support.tiny_agents import PROMPTS, ROLES

DATE = "01 Jan 2026"


def load_agent(folder, **options):
    return load_agents({"agent": str(folder)}, DATE, **options)["agent"]


@pytest.fixture
def copy(folders, tmp_path):
    """A solver folder of one's own."""
    return Path(shutil.copytree(folders["solver"], tmp_path / "agent"))


def live_bytes():
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays())


def test_a_folder_named_twice_is_in_memory_once(copy, tmp_path):
    before = live_bytes()
    (tmp_path / "link").symlink_to(copy)
    names = {"a": str(copy), "b": str(copy / ".." / "agent"), "c": str(tmp_path / "link")}
    agents = load_agents(names, DATE)
    size = sum(x.nbytes for x in jax.tree.leaves(agents["a"].params))
    assert size > 10_000
    assert live_bytes() - before == size
    pointers = [
        [x.unsafe_buffer_pointer() for x in jax.tree.leaves(agents[n].params)] for n in names
    ]
    assert pointers[0] == pointers[1] == pointers[2]


def test_other_folders_are_not_shared(folders):
    agents = load_agents(folders, DATE)
    widths = {name: agent.model.d_model for name, agent in agents.items()}
    assert widths == {role: width for role, (_, width, _) in ROLES.items()}
    assert {agent.model.family for agent in agents.values()} == {"qwen3", "llama", "qwen2"}


def test_system(system):
    spec = system.spec("mlp_res")
    assert dict(spec.links.widths) == {"planner": 16, "critic": 24, "solver": 32}
    assert spec.links.edges == SEQUENTIAL.link_edges
    assert hash(spec) == hash(system.spec("mlp_res"))
    assert spec.model("critic") == system.agents["critic"].model
    facts = system.facts()
    assert facts["agents"] == {a: system.agents[a].fingerprint for a in SEQUENTIAL.agents}
    assert facts["prompts"] == {"name": "words", "digest": system.prompts.digest}
    json.dumps(facts)


def test_a_system_checks_its_prompts(system):
    roles = {k: v for k, v in PROMPTS["roles"].items() if k != "critic"}
    prompts = from_json(json.dumps(PROMPTS | {"roles": roles}), "PROMPTS")
    with pytest.raises(InputError, match="has no role 'critic'"):
        System(SEQUENTIAL, system.agents, prompts, "math")
    with pytest.raises(InputError, match="no prompts of role 'planner' for task family 'code'"):
        System(SEQUENTIAL, system.agents, system.prompts, "code")


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


def reshape_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(7, np.float32)
    save_file(tensors, folder / "model.safetensors")


def spoil_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")


def cut_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def edit(name, **changes):
    def apply(folder):
        path = folder / name
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return apply


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (remove("tokenizer.json", "tokenizer_config.json"), "holds no tokenizer"),
        (remove("tokenizer.json"), "holds no tokenizer; expected tokenizer.json or"),
        (write("tokenizer.json", "{"), "tokenizer.json is no tokenizer, or is damaged"),
        (write("tokenizer.json", "{}"), "tokenizer.json is no tokenizer, or is damaged"),
        (write("tokenizer_config.json", "[]"), "tokenizer_config.json must hold a JSON object"),
        (remove("chat_template.jinja"), "the tokenizer has no chat template"),
        (edit("tokenizer_config.json", eos_token=None), "the tokenizer has no eos token"),
        (edit("tokenizer.json", added_tokens=[], model={
            "type": "WordLevel", "unk_token": "(u)",
            "vocab": {"(u)": 0, "(e)": 1, "(p)": 2, "w1": 400},
        }), "the tokenizer has ids up to 400, but the model has only"),
        (cut_weights, "model.safetensors is damaged"),
        (drop_tensor, "missing 1 tensors: model.norm.weight"),
        (reshape_tensor, "wrong shape: model.norm.weight is (7,), not (32,)"),
        (spoil_tensor, "model.norm.weight holds nan or inf"),
        (remove("model.safetensors"), "holds no weights"),
        (remove("config.json"), "cannot read"),
        (write("config.json", "{"), "config.json is not valid JSON"),
        (edit("config.json", model_type="mamba"), "unknown architecture 'mamba'"),
        (write("generation_config.json", "["), "generation_config.json is not valid JSON"),
        (write("generation_config.json", "[]"), "generation_config.json must hold a JSON object"),
    ],
)  # fmt: skip
def test_damaged_folders(copy, damage, told):
    damage(copy)
    with pytest.raises(InputError, match=re.escape(told)) as e:
        load_agent(copy)
    assert str(copy) in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (edit("config.json", quantization_config={"quant_method": "gptq"}), "quantized with GPTQ"),
        (edit("config.json", num_hidden_layers=10**9), "'num_hidden_layers' is 1000000000"),
        (edit("config.json", rope_theta=7.0, rope_scaling={"rope_theta": 8.0}), "contradict"),
        (edit("generation_config.json", eos_token_id=[0, 10**6]), "'eos_token_id' is 1000000"),
        (
            write("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n"),
            "Git LFS pointer",
        ),
        (write("agent.gguf", "GGUF"), "GGUF weights"),
        (write("adapter_config.json", '{"peft_type": "LORA"}'), "LORA adapter"),
    ],
)
def test_outlines_tell_it_before_weights_are_read(folders, copy, damage, told):
    (copy / "model.safetensors").unlink()
    given = {"form": "ln_res", "prompts": "default", "task_family": "math", "date": DATE}
    sources = {**folders, "solver": str(copy)}
    Outline.of_agents(sources, SEQUENTIAL, **given)
    damage(copy)
    with pytest.raises(InputError, match=re.escape(told)) as e:
        Outline.of_agents(sources, SEQUENTIAL, **given)
    assert str(copy) in str(e.value)


def test_errors_of_a_template_name_every_agent_that_has_it(copy):
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] + 1 }}")
    names = {"a": str(copy), "b": str(copy)}
    with pytest.raises(InputError, match=re.escape(f"agent a, b: {copy}: the chat template fails")):
        load_agents(names, DATE)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_agents({"a": str(tmp_path / "nowhere")}, DATE)


def test_all_stop_tokens_count(copy):
    own = load_agent(copy).chat.tokenizer.eos_token_id
    assert load_agent(copy).eos == (own,)
    others = [i for i in range(6) if i != own][:3]
    edit("config.json", eos_token_id=others[0])(copy)
    edit("generation_config.json", eos_token_id=others[1:])(copy)
    assert load_agent(copy).eos == tuple(sorted([own, *others]))
    remove("generation_config.json")(copy)
    assert load_agent(copy).eos == tuple(sorted([own, others[0]]))


def test_the_generic_tokenizer_class_is_read_as_the_file_says(copy):
    """By the family's own rules a qwen2 tokenizer would cut this word at the comma."""
    config = json.loads((copy / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] in ("TokenizersBackend", "PreTrainedTokenizerFast")
    assert json.loads((copy / "config.json").read_text())["model_type"] == "qwen2"
    vocabulary = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    chat = load_agent(copy).chat
    assert chat.ids("w1 one,two (e)") == [vocabulary[w] for w in ("w1", "one,two", "(e)")]
    assert chat.render("Help", "w1") == "(s) Help (q) w1 (b) "


def test_fingerprints(copy, tmp_path):
    before = fingerprint(copy)
    assert re.fullmatch("[0-9a-f]{16}", before)
    assert fingerprint(Path(shutil.copytree(copy, tmp_path / "same"))) == before
    seen = {before}
    tensors = load_file(copy / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 4] += 1e-3
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    seen.add(fingerprint(copy))
    edit("config.json", rms_norm_eps=1e-5)(copy)
    seen.add(fingerprint(copy))
    edit("tokenizer_config.json", pad_token="(u)")(copy)
    seen.add(fingerprint(copy))
    write("chat_template.jinja", "other")(copy)
    seen.add(fingerprint(copy))
    assert len(seen) == 5


def test_types(copy):
    agent = load_agent(copy, dtype="bfloat16")
    assert {str(x.dtype) for x in jax.tree.leaves(agent.params)} == {"bfloat16"}
