"""How much host memory loading a checkpoint takes, per byte that ends up on devices.

  python -m experiments.benchmarks.load_memory --gigabytes=1.0 --dtype=bfloat16 --devices=1,8

Makes a checkpoint in a temporary folder (a Qwen3 of random weights, in shards), then loads it in
a fresh process for each number of CPU devices: on one as it is, on several split over a mesh. The
peak is the process's largest resident memory while it loads, less what it held when JAX had
started. The memory of CPU devices is the host's, so the best ratio is 1; above the limit of 1.3
the command ends with status 1.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from safetensors.numpy import save_file

from experiments import app
from rmas.errors import InputError
from rmas.models import read_spec
from rmas.parallel import Heads, MeshSpec, make_mesh, placer
from rmas.weights import load_params

_GIGABYTES = flags.DEFINE_float("gigabytes", 1.0, "Size of the checkpoint.", lower_bound=0.01)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Type of the weights.")
_DEVICES = flags.DEFINE_list("devices", "1,8", "Numbers of CPU devices to load onto.")

LIMIT = 1.3
SHARD_BYTES = 128 << 20
WIDTH, MLP, HEADS, KV_HEADS, HEAD = 1024, 3072, 16, 8, 128  # those of Qwen3-0.6B
VOCABULARY, MOST_OF_EMBEDDING = 151_936, 0.6
Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")


def main(_: list[str]) -> int:
    """Measures the peak memory of loading."""
    try:
        counts = [int(n) for n in _DEVICES.value]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise InputError(f"--devices={','.join(_DEVICES.value)}; wanted numbers, as in 1,8")
    with tempfile.TemporaryDirectory() as folder:
        in_a_process(write_checkpoint, folder, _GIGABYTES.value, _DTYPE.value)
        rows = [in_a_process(measure, folder, n) for n in counts]
    print("devices  weights   placed MB  peak MB  ratio  seconds")
    for row in rows:
        print(
            f"{row['devices']:7}  {_DTYPE.value:8}  {row['placed'] / 1e6:9.1f}  "
            f"{row['peak'] / 1e6:7.1f}  {row['ratio']:5.2f}  {row['seconds']:7.1f}"
        )
    result = {"benchmark": "load_memory", "dtype": _DTYPE.value, "limit": LIMIT, "rows": rows}
    print(json.dumps(result))
    return int(any(row["ratio"] > LIMIT for row in rows))


def in_a_process(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a call in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def write_checkpoint(folder: str, gigabytes: float, dtype: str) -> None:
    """A Qwen3 folder of about this size; only one shard is ever in memory."""
    config, shapes = model_of(int(gigabytes * 1e9), jnp.dtype(dtype).itemsize)
    random, weight_map = np.random.default_rng(0), {}
    for i, names in enumerate(_shards(shapes, jnp.dtype(dtype).itemsize)):
        file = f"model-{i:05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        tensors = {
            name: random.standard_normal(shapes[name], np.float32).astype(dtype) for name in names
        }
        save_file(tensors, Path(folder, file))
    Path(folder, "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    Path(folder, "config.json").write_text(json.dumps(config | {"dtype": dtype}))


def model_of(size: int, itemsize: int) -> tuple[dict[str, Any], Shapes]:
    """The configuration of a model of about `size` bytes, and the shapes of its tensors."""
    vocabulary = min(VOCABULARY, int(MOST_OF_EMBEDDING * size / (itemsize * WIDTH)) // 64 * 64)
    layer: Shapes = {
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
        "self_attn.q_norm": (HEAD,),
        "self_attn.k_norm": (HEAD,),
        "self_attn.q_proj": (HEADS * HEAD, WIDTH),
        "self_attn.k_proj": (KV_HEADS * HEAD, WIDTH),
        "self_attn.v_proj": (KV_HEADS * HEAD, WIDTH),
        "self_attn.o_proj": (WIDTH, HEADS * HEAD),
        "mlp.gate_proj": (MLP, WIDTH),
        "mlp.up_proj": (MLP, WIDTH),
        "mlp.down_proj": (WIDTH, MLP),
    }
    rest = size / itemsize - vocabulary * WIDTH
    layers = max(1, round(rest / sum(map(np.prod, layer.values()))))
    shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    return config, shapes


def _shards(shapes: Shapes, itemsize: int) -> Iterator[list[str]]:
    """The names in runs of about SHARD_BYTES; a larger tensor has a shard of its own."""
    names: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * itemsize
        if names and filled + size > SHARD_BYTES:
            yield names
            names, filled = [], 0
        names, filled = [*names, name], filled + size
    yield names


def measure(folder: str, devices: int) -> dict[str, float]:
    """Loads the checkpoint onto so many CPU devices of this process, which must be a fresh one."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    place = placer(make_mesh(MeshSpec(tensor=devices)), Heads(HEADS, KV_HEADS))
    jax.block_until_ready(jnp.zeros(1) + 1)
    spec = read_spec(folder)
    before, start = resident("VmRSS"), time.perf_counter()
    params = jax.block_until_ready(load_params(spec, folder, place=place))
    seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
    shards = [shard for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards]
    placed = sum(shard.data.nbytes for shard in shards)
    return {
        "devices": devices,
        "placed": placed,
        "peak": peak,
        "ratio": peak / placed,
        "seconds": seconds,
    }


def resident(field: str) -> int:
    """Bytes of this process's resident memory: now (`VmRSS`) or at its highest (`VmHWM`).

    Raises:
      InputError: the system does not tell (only Linux does).
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))
    except (OSError, StopIteration) as error:
        raise InputError("memory is measured through /proc/self/status, as Linux has it") from error


if __name__ == "__main__":
    app.run(main)
