"""The table of sharding rules: complete, without dead rules, and what it gives."""

import logging
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.parallel import Heads, param_shardings
from rmas.parallel.rules import RULES, meanings_of
from support.fake_devices import delta_shapes, dense_shapes, mesh_of, nested, with_scales

HEADS = Heads(query=4, kv=2, delta_key=2, delta_value=4)
SHAPES = with_scales(dense_shapes(HEADS)) | with_scales(delta_shapes(HEADS))
PERIOD = "layers/period/0/"


def shardings(mesh, shapes, heads=HEADS) -> dict[str, NamedSharding]:
    """By path, from the nested tree."""
    structs = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        param_shardings(mesh, nested(structs), heads),
        is_leaf=lambda x: isinstance(x, NamedSharding),
    )
    return {"/".join(key.key for key in path): sharding for path, sharding in leaves}


def first_rule(path: str) -> int:
    return next(i for i, (pattern, _) in enumerate(RULES) if re.fullmatch(pattern, path))


def test_every_rule_is_some_parameters_first_match():
    assert {first_rule(path) for path in SHAPES} == set(range(len(RULES)))


def test_no_two_rules_disagree():
    for path in SHAPES:
        assert len({m for pattern, m in RULES if re.fullmatch(pattern, path)}) == 1, path


@pytest.mark.parametrize(
    "path", ["layers/period/0/attention/r_proj/kernel", "embed/weight/more", "head/bias", ""]
)
def test_parameter_without_a_rule_is_named(path):
    with pytest.raises(KeyError, match=f"no sharding rule for the parameter {path}"):
        meanings_of(path)


def test_tree_with_an_unknown_parameter_is_refused():
    with pytest.raises(KeyError, match="layers/rest/0/mlp/extra/kernel"):
        shardings(mesh_of(2, 2, 2), SHAPES | {"layers/rest/0/mlp/extra/kernel": (8, 8)})


@pytest.mark.parametrize(
    ("path", "spec", "shard"),
    [
        ("embed/weight", ("tensor", "fsdp"), (16, 4)),
        ("head/kernel", ("fsdp", "tensor"), (4, 16)),
        ("head/scale", ("tensor",), (16,)),
        ("norm/weight", (None,), (8,)),
        (PERIOD + "input_norm/weight", (None, None), (3, 8)),
        (PERIOD + "attention/q_norm/weight", (None, None), (3, 4)),
        (PERIOD + "attention/q_proj/kernel", (None, "fsdp", "tensor"), (3, 4, 8)),
        (PERIOD + "attention/q_proj/bias", (None, "tensor"), (3, 8)),
        (PERIOD + "attention/k_proj/kernel", (None, "fsdp", "tensor"), (3, 4, 4)),
        (PERIOD + "attention/v_proj/scale", (None, "tensor"), (3, 4)),
        (PERIOD + "attention/o_proj/kernel", (None, "tensor", "fsdp"), (3, 8, 4)),
        (PERIOD + "attention/o_proj/bias", (None, "fsdp"), (3, 4)),
        (PERIOD + "mlp/gate_proj/kernel", (None, "fsdp", "tensor"), (3, 4, 16)),
        (PERIOD + "mlp/up_proj/bias", (None, "tensor"), (3, 16)),
        (PERIOD + "mlp/down_proj/kernel", (None, "tensor", "fsdp"), (3, 16, 4)),
        (PERIOD + "mlp/down_proj/scale", (None, "fsdp"), (3, 4)),
        (PERIOD + "delta/k_proj/kernel", (None, "fsdp", "tensor"), (3, 4, 4)),
        (PERIOD + "delta/z_proj/kernel", (None, "fsdp", "tensor"), (3, 4, 8)),
        (PERIOD + "delta/a_proj/kernel", (None, "fsdp", "tensor"), (3, 4, 2)),
        (PERIOD + "delta/q_conv/kernel", (None, None, "tensor"), (3, 4, 4)),
        (PERIOD + "delta/v_conv/kernel", (None, None, "tensor"), (3, 4, 8)),
        (PERIOD + "delta/a_log", (None, "tensor"), (3, 2)),
        (PERIOD + "delta/dt_bias", (None, "tensor"), (3, 2)),
        (PERIOD + "delta/norm/weight", (None, None), (3, 4)),
        (PERIOD + "delta/o_proj/kernel", (None, "tensor", "fsdp"), (3, 8, 4)),
        ("layers/rest/0/attention/q_proj/kernel", ("fsdp", "tensor"), (4, 8)),
        ("layers/rest/0/mlp/down_proj/kernel", ("tensor", "fsdp"), (16, 4)),
    ],
)
def test_specs(path, spec, shard, caplog):
    sharding = shardings(mesh_of(2, 2, 2), SHAPES)[path]
    assert sharding.spec == P(*spec)
    assert sharding.shard_shape(SHAPES[path]) == shard
    assert caplog.text == ""


def test_heads_that_do_not_divide_are_replicated_and_logged_once(caplog):
    with caplog.at_level(logging.INFO):
        found = shardings(mesh_of(data=2, tensor=4), SHAPES)
    for name in ("k_proj/kernel", "v_proj/kernel", "k_proj/bias", "v_proj/scale"):
        assert "tensor" not in found[PERIOD + "attention/" + name].spec
        assert "tensor" not in found["layers/rest/0/attention/" + name].spec
    for name in ("q_proj/kernel", "k_proj/kernel", "k_proj/scale", "q_conv/kernel"):
        assert "tensor" not in found[PERIOD + "delta/" + name].spec
    # 2 KV heads of 4 numbers: the axis has 8, and 4 divides it, but not by whole heads.
    assert found[PERIOD + "attention/k_proj/kernel"].shard_shape((3, 8, 8)) == (3, 8, 8)
    assert found[PERIOD + "attention/q_proj/kernel"].shard_shape((3, 8, 16)) == (3, 8, 4)
    assert found[PERIOD + "delta/v_proj/kernel"].shard_shape((3, 8, 16)) == (3, 8, 4)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert sum("kv_heads=2 does not divide over tensor=4 and is repl" in t for t in told) == 1
    assert sum("delta_heads=2 does not divide over tensor=4" in t for t in told) == 1


def test_sizes_that_do_not_divide_are_replicated_and_logged_once(caplog):
    shapes = dense_shapes(HEADS, vocab=533, width=6)
    with caplog.at_level(logging.INFO):
        found = shardings(mesh_of(fsdp=4, tensor=2), shapes)
    assert found["embed/weight"].spec == P(None, None)
    assert found["head/kernel"].spec == P(None, None)
    assert found[PERIOD + "attention/q_proj/kernel"].spec == P(None, None, "tensor")
    assert found[PERIOD + "mlp/down_proj/kernel"].spec == P(None, "tensor", None)
    told = sorted(record.getMessage() for record in caplog.records)
    assert len(told) == 2
    assert "vocab=533 does not divide over tensor=2" in told[0]
    assert "width=6 does not divide over fsdp=4" in told[1]


@pytest.mark.parametrize(
    ("path", "shape", "heads", "told"),
    [
        ("norm/weight", (2, 8), HEADS, "its rule is for 1 axes"),
        (PERIOD + "mlp/up_proj/kernel", (8, 32), HEADS, "its rule is for 3 axes"),
        (PERIOD + "attention/k_proj/bias", (3, 9), HEADS, "axis of 9 does not hold 2 kv_heads"),
        (PERIOD + "delta/a_log", (3, 4), Heads(4, 2), "does not hold 0 delta_value_heads"),
    ],
)
def test_shapes_that_the_rule_does_not_describe_are_refused(path, shape, heads, told):
    with pytest.raises(ValueError, match=told):
        shardings(mesh_of(2, 2, 2), {path: shape}, heads)
