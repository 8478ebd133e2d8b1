"""Slices as users write them, the devices that the compiler describes, and the figures of chips."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.parallel import make_mesh, parse_mesh, slices
from rmas.parallel.chips import CHIPS
from rmas.parallel.slices import SliceSpec, describe_devices, no_compile_cache, parse_slice


@pytest.mark.parametrize(
    ("text", "generation", "shape"),
    [
        ("v5e:2x4", "v5e", (2, 4)),
        ("v5e:1x1", "v5e", (1, 1)),
        ("v4:2x2x4", "v4", (2, 2, 4)),
        ("v5p:2x2x2", "v5p", (2, 2, 2)),
        (" V6E:2x4 ", "v6e", (2, 4)),
        ("tpu7x:2x2x1", "tpu7x", (2, 2, 1)),
    ],
)
def test_slices_are_parsed(text, generation, shape):
    found = parse_slice(text)
    assert found == SliceSpec(generation, shape)
    assert str(found) == text.strip().lower()
    assert found.chip.name == generation


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("v5e-8", "topology 'v5e-8' counts chips or cores; write its shape: v5e:2x4"),
        ("v5litepod-16", "write its shape: v5e:4x4"),
        ("v5lite-1", "write its shape: v5e:1x1"),
        ("v4-32", "write its shape: v4:2x2x4"),
        ("v5p-8", "write its shape: v5p:2x2x1"),
        ("v6e-8", "write its shape: v6e:2x4"),
        ("v6e-7", "shapes that work: v6e:1x1, v6e:2x2, v6e:2x4"),
        ("h100-8", "write the generation (v4, v5e, v5p, v6e, tpu7x) and the shape, as in v5e:2x4"),
        ("v3:2x2", "generation 'v3' is unknown; known: v4, v5e, v5p, v6e, tpu7x"),
        ("v5e:2x2x2", "a slice of v5e has 2 axes; shapes that work: v5e:1x1, v5e:2x2"),
        ("v4:2x2", "a slice of v4 has 3 axes; shapes that work: v4:2x2x1, v4:2x2x2"),
        ("v5e:4x2", "topology 'v5e:4x2': the shorter side comes first; write v5e:2x4"),
        (" V6E:16x8", "the shorter side comes first; write v6e:8x16"),
        ("v5e:16x32", "has 512 chips; a slice of v5e has 256 at most"),
        ("v5e:0x4", "is not a slice; write one as in v5e:2x4"),
        ("v5e:2x", "is not a slice"),
        ("", "is not a slice"),
        ("v5e:99999x1", "is not a slice"),
    ],
)
def test_what_is_not_a_slice(text, told):
    with pytest.raises(InputError) as found:
        parse_slice(text)
    assert told in str(found.value)
    assert "\n" not in str(found.value)


def test_common_names_lead_to_shapes_that_are_slices():
    for name, generation in slices._GENERATIONS.items():
        for shape in generation.shapes:
            spec = parse_slice(f"{name}:{shape}")
            with pytest.raises(InputError, match=f"write its shape: {spec}$"):
                parse_slice(f"{name}-{spec.chips * generation.cores}")


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(slices, "available", lambda: False)
    describe_devices.cache_clear()
    with pytest.raises(InputError, match=r"v5e:2x4 needs .* pip install '\.\[tpu\]'"):
        describe_devices(parse_slice("v5e:2x4"))


def test_figures_of_chips():
    """Each generation has its chip; a peak is a whole number of products a cycle."""
    assert {chip.name for chip in CHIPS.values()} == set(slices._GENERATIONS)
    units = {"v4": 8 * 128**2, "v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2}
    for kind, chip in CHIPS.items():
        assert chip.device_kind == kind
        assert chip.source.startswith("https://")
        products = units.get(chip.name, 4 * 256**2)
        assert chip.flops / (2 * products) == pytest.approx(chip.clock_hz, rel=0.005)


def test_the_compile_cache_is_off_and_put_back(tmp_path):
    cache, name = jax.config.values["jax_compilation_cache_dir"], "jax_compilation_cache_dir"
    jax.config.update(name, str(tmp_path))
    try:
        x = np.ones(3, np.float32)
        with no_compile_cache():
            assert not jax.config.values["jax_enable_compilation_cache"]
            jax.jit(lambda x: x * 3 + 1)(x)
        assert list(tmp_path.iterdir()) == []
        assert jax.config.values["jax_enable_compilation_cache"]
        jax.jit(lambda x: x * 5 + 2)(x)
        assert list(tmp_path.iterdir())
        with pytest.raises(KeyError), no_compile_cache():
            raise KeyError
        assert jax.config.values["jax_enable_compilation_cache"]
    finally:
        jax.config.update(name, cache)
        with no_compile_cache():
            pass  # what follows decides about its own folder


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("text", "kind", "devices", "hosts"),
    [
        ("v4:2x2x1", "TPU v4", 4, 1),
        ("v4:2x2x4", "TPU v4", 16, 4),
        ("v5e:1x1", "TPU v5 lite", 1, 1),
        ("v5e:2x2", "TPU v5 lite", 4, 1),
        ("v5e:2x4", "TPU v5 lite", 8, 1),
        ("v5e:4x4", "TPU v5 lite", 16, 4),
        ("v5p:2x2x2", "TPU v5", 8, 2),
        ("v6e:2x4", "TPU v6 lite", 8, 1),
        ("v6e:4x4", "TPU v6 lite", 16, 4),
        ("tpu7x:2x2x1", "TPU7x", 8, 1),
        ("tpu7x:2x2x2", "TPU7x", 16, 2),
    ],
)
def test_described_devices(text, kind, devices, hosts):
    spec = parse_slice(text)
    found = describe_devices(spec)
    assert {device.device_kind for device in found} == {kind} == {spec.chip.device_kind}
    assert len(found) == devices
    assert len({device.process_index for device in found}) == hosts
    if hosts > 1:
        assert len(describe_devices(spec.host)) == devices // hosts
    mesh = make_mesh(parse_mesh("data=-1"), found)
    assert mesh.shape["data"] == devices


@pytest.mark.tpu
def test_v4_chips_have_both_cores():
    assert {device.num_cores for device in describe_devices(parse_slice("v4:2x2x1"))} == {2}


@pytest.mark.tpu
def test_shapes_that_the_compiler_refuses():
    with pytest.raises(
        InputError, match=r"v5e:3x5.*not divisible.*shapes that work: v5e:1x1, "
    ) as e:
        describe_devices(parse_slice("v5e:3x5"))
    assert "\n" not in str(e.value)


@pytest.mark.tpu
def test_the_environment_stays():
    before = dict(os.environ)
    describe_devices.cache_clear()
    describe_devices(parse_slice("v5e:2x2"))
    assert dict(os.environ) == before


@pytest.mark.tpu
def test_the_compiler_leaves_no_files_of_logs(tmp_path):
    pytest.importorskip("libtpu")
    code = "from rmas.parallel import slices as s; s.describe_devices(s.parse_slice('v5e:1x1'))"
    own = {"TPU_LOG_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    env = {name: x for name, x in os.environ.items() if name != "TPU_MIN_LOG_LEVEL"} | own
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not list(tmp_path.iterdir())
