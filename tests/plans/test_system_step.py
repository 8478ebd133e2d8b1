"""Plans of steps that train LoRA adapters, or all weights: what lies where, before a compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmas.links import LinkSpec, init_links
from rmas.models import abstract_params
from rmas.parallel import param_shardings
from rmas.plans import arguments
from rmas.plans.arguments import device_bytes
from rmas.plans.training_steps import system_step
from rmas.system.topology import Topology
from rmas.system.turn import SystemSpec
from rmas.training.loop import Schedule
from rmas.training.objectives import Lengths, TrainingContext
from rmas.training.optim import Optim
from rmas.training.trainable import full_trainable, lora_trainable
from rmas.weights.agents import AgentParams
from rmas.weights.placement import heads_of
from support.fake_devices import mesh_of
from support.tiny_families import family_spec

SPEC = family_spec("qwen3", num_hidden_layers=1)
ALONE = Topology("alone", ("one",), (), "one")
RANK = 4


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_arguments_of_a_device(kind):
    """Weights are bfloat16 and frozen, or float32 and trained; moments lie as what is trained."""
    mesh = mesh_of(2, 2, 2)
    links_spec = LinkSpec("ln_res", (("one", SPEC.d_model),), ())
    context = TrainingContext(ALONE, SystemSpec((("one", SPEC),), links_spec), 2, 0.0, 0.0)
    shapes = abstract_params(SPEC)
    at = param_shardings(mesh, shapes, heads_of(SPEC))
    weights = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=s), shapes, at
    )
    links = jax.eval_shape(lambda: init_links(links_spec, jax.random.key(0)))
    params, links = AgentParams(one=weights), arguments.whole(mesh, links)
    if kind == "lora":
        what = lora_trainable({"one": SPEC}, params, links, mesh, rank=RANK, alpha=8.0)
    else:
        what = full_trainable({"one": SPEC}, params, links, mesh)
    program = system_step(
        context,
        (("rollout", 1.0),),
        what,
        schedule=Schedule(Optim(steps=10), batch_size=8),
        rounds=1,
        lengths=Lengths(prompt=14, text=2),
        mesh=mesh,
    )
    state, frozen, _ = program.arguments
    trained = device_bytes(state.links)
    counts = 4 * 3  # of steps: the step's own, the schedule's and the moments'
    assert device_bytes(state.opt_state) + 4 - counts == 2 * trained
    assert {x.dtype for x in jax.tree.leaves(state.links)} == {np.dtype("float32")}
    if kind == "full":
        assert frozen is links
        assert trained == 2 * device_bytes(weights)
    else:
        assert device_bytes(frozen) == device_bytes(weights) + device_bytes(links)
        sums = {m: sum(x.shape[-2:]) for m, x in matrices(weights).items()}
        whole = sum(4 * RANK * n for n in sums.values())
        assert whole / 4 <= trained <= whole / 2


def matrices(params):
    found = jax.tree_util.tree_leaves_with_path(params["layers"])
    return {jax.tree_util.keystr(p): x for p, x in found if "_proj" in jax.tree_util.keystr(p)}
