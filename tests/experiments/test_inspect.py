"""Sizes of a system before it is loaded, against what loading it really takes."""

import subprocess

import jax
import jax.numpy as jnp
import pytest

from rmas import parallel
from rmas.models import parse_spec
from rmas.system.outline import Outline
from rmas.system.sizes import measure
from rmas.system.styles import STYLES
from rmas.weights import load_model
from support.commands import run
from support.fake_devices import mesh_of
from support.released_tiny import STYLE, make_root

GIVEN = {"prompts": "default", "task_family": "math", "date": ""}


def inspect(*flags: str) -> subprocess.CompletedProcess:
    return run("inspect", *flags)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    return folder, make_root(folder)


@pytest.mark.parametrize("quantize", [False, True])
def test_bytes_of_a_device_are_those_that_loading_places(root, quantize):
    folder, links = root
    outline = Outline.of_style(STYLE, folder, **GIVEN)
    plan = parallel.abstract_mesh(parallel.MeshSpec(fsdp=2, tensor=2, data=2), 8)
    size = outline.size(plan, jnp.bfloat16, quantize)
    mesh, first = mesh_of(2, 2, 2), jax.devices()[0]
    for agent in size.agents:
        _, params = load_model(folder / agent.name, jnp.bfloat16, mesh, quantize)
        shards = [s for x in jax.tree.leaves(params) for s in x.addressable_shards]
        assert agent.weights == sum(s.data.nbytes for s in shards if s.device == first)
        stored = jax.tree.map(jnp.size, load_model(folder / agent.name)[1])
        assert agent.parameters == sum(jax.tree.leaves(stored))
        assert agent.inner == sum(x.size for x in jax.tree.leaves(links["inner"][agent.name]))
    assert size.trainable == sum(x.size for x in jax.tree.leaves(links))
    assert size.links == 4 * size.trainable
    assert size.resident == size.links + sum(a.weights for a in size.agents)


def test_caches_count_keys_values_and_states():
    config = {
        "model_type": "qwen3_5_text", "vocab_size": 50, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
        "linear_key_head_dim": 4, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 4,
        "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
    }  # fmt: skip
    spec = parse_spec(config, "test")
    plan = parallel.abstract_mesh(parallel.MeshSpec(), 1)
    (agent,) = measure({"a": spec}, (), "ln_res", mesh=plan, dtype=jnp.bfloat16).agents
    keys_and_values = 1 * 1000 * 2 * 8 * 2
    states, windows = 3 * 2 * 4 * 6 * 4, 3 * 3 * (4 + 4 + 12) * 2
    assert agent.cache == keys_and_values + states + windows


@pytest.mark.parametrize("name", STYLES)
def test_released_styles_without_a_folder(name):
    outline = Outline.of_release(STYLES[name], **GIVEN)
    plan = parallel.abstract_mesh(parallel.MeshSpec(), 1)
    size = outline.size(plan, jnp.bfloat16)
    assert set(outline.shares) == ({"toolcaller"} if name == "deliberation" else set())
    share = size.trainable / (size.trainable + size.frozen)
    assert 0.001 < share < 0.03
    if name == "sequential_light":
        # Qwen3-1.7B, Llama-3.2-1B and Qwen2.5-Math-1.5B; links from the released shapes.
        assert size.frozen == 1_720_574_976 + 1_235_814_400 + 1_543_714_304
        assert size.agents[0].inner == 2 * (2048 * 2048 + 2048) + 4 * 2048
        outer = 2048 * 4096 + 4096 + 4096 * 2048 + 2048 + 2048 * 2048 + 2048 + 4 * 2048
        assert size.outer["planner->critic"] == outer


def test_the_command_tells_what_does_not_fit(root):
    done = inspect("--style=sequential_light", f"--root={root[0]}", "--memory_gib=0.001")
    assert done.returncode == 0, done.stderr
    assert "does not fit: 1.02 MiB per device" in done.stdout
    assert "planner->critic" in done.stdout
    done = inspect("--style=deliberation", "--mesh=tensor=4", "--memory_gib=16")
    assert done.returncode == 0, done.stderr
    assert "fits: 16.00 GiB per device" in done.stdout
    assert "(of reflector)" in done.stdout


def test_a_broken_mesh_is_one_line(root):
    done = inspect("--style=sequential_light", f"--root={root[0]}", "--mesh=rows=2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "unknown axis 'rows'" in line
