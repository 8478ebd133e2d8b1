"""The dense base models of the released systems: read, and counted to the last parameter."""

import json
from pathlib import Path

import jax
import pytest

from rmas.models import ModelSpec, abstract_params

MODELS = json.loads((Path(__file__).parent / "base_models.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count(name):
    spec = ModelSpec.from_dict(MODELS[name]["config"], where=name)
    shapes = jax.tree.leaves(abstract_params(spec))
    assert sum(leaf.size for leaf in shapes) == MODELS[name]["parameters"]


def test_facts_that_differ_between_them():
    def spec(name):
        return ModelSpec.from_dict(MODELS[name]["config"], where=name)

    llama = spec("meta-llama/Llama-3.2-1B-Instruct").layers[0].rope
    assert (llama.kind, llama.factor, llama.theta) == ("llama3", 32.0, 500000.0)
    assert spec("BioMistral/BioMistral-7B").layers[0].window == 4096
    assert spec("Qwen/Qwen2.5-Math-1.5B-Instruct").layers[0].window is None
    assert spec("Qwen/Qwen2.5-Math-1.5B-Instruct").tied
    assert not spec("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B").tied
    assert spec("Qwen/Qwen3-1.7B").qk_norm
