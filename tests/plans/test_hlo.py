"""What is read of compiled texts: those of the CPU's compiler, made here, and a recorded TPU's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.parallel import use
from rmas.plans import hlo
from rmas.plans.hlo import Collective
from rmas.plans.instructions import computations
from support.fake_devices import mesh_of

RECORDED = Path(__file__).parent / "tpu_program.txt"
"""The text of `recursive` for four v5e chips (`tensor=4`, bfloat16, D = 128, F = 512, B = 16),
without fused computations and without what is not read of the settings of its backend."""
LAYERS, STEPS, B, D, F = 3, 7, 16, 128, 512


def recursive(w_LDF, v_LFD, x_BD, stop):
    """Layers in steps whose number is known, then in steps that may end early."""

    def layer(x_BD, w):
        return x_BD + jnp.tanh(x_BD @ w[0]) @ w[1], None

    def layers(x_BD):
        return lax.scan(layer, x_BD, (w_LDF, v_LFD))[0]

    x_BD, _ = lax.scan(lambda x_BD, _: (layers(x_BD), None), x_BD, None, length=STEPS)

    def unfinished(carry):
        return (carry[0] < 32) & ~jnp.all(carry[1] > stop)

    return lax.while_loop(unfinished, lambda carry: (carry[0] + 1, layers(carry[1])), (0, x_BD))


@pytest.fixture(scope="module")
def on_cpu() -> str:
    """The same program for four CPU devices, in float32."""
    mesh = mesh_of(tensor=4)

    def array(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        with use(mesh):
            lowered = jax.jit(recursive).lower(
                array((LAYERS, D, F), None, None, "tensor"),
                array((LAYERS, F, D), None, "tensor"),
                array((B, D)),
                array(()),
            )
            return lowered.compile().as_text()
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def facts(found: list[Collective]) -> list[tuple[str, int, tuple]]:
    return [(c.kind, c.bytes, c.loops) for c in found]


def test_collectives_on_cpu(on_cpu):
    """One sum of float32 partial products for each layer."""
    found = hlo.collectives(on_cpu)
    assert facts(found) == [
        ("all-reduce", 4 * B * D, (STEPS, LAYERS)),
        ("all-reduce", 4 * B * D, (None, LAYERS)),
    ]
    assert all(c.source.endswith("dot_general") and c.name for c in found)


def test_loops_on_cpu(on_cpu):
    assert {nest.loops for nest in hlo.cycles(on_cpu)} == {
        (),
        (STEPS,),
        (STEPS, LAYERS),
        (None,),
        (None, LAYERS),
    }
    assert hlo.total_cycles(on_cpu) == 0  # this compiler estimates nothing


def test_a_recorded_program_for_tpus():
    text = RECORDED.read_text()
    assert facts(hlo.collectives(text)) == [
        ("all-reduce", 2 * B * D, (STEPS, LAYERS)),
        ("all-reduce", 2 * B * D, (None, LAYERS)),
    ]
    nests = {nest.loops: nest for nest in hlo.cycles(text)}
    assert {loops: nest.once for loops, nest in nests.items()} == {
        (): 1849,
        (STEPS,): 0,
        (STEPS, LAYERS): 6091 + 1857,
        (None,): 1841,
        (None, LAYERS): 6091 + 1857,
    }
    first = nests[STEPS, LAYERS].operations[0]
    assert (first.cycles, first.opcode, first.shape) == (6091, "fusion", "bf16[16,128]")
    assert first.source.endswith("dot_general")
    assert nests[STEPS, LAYERS].total() == 7948 * STEPS * LAYERS
    assert nests[None, LAYERS].total(32) == 7948 * 32 * LAYERS
    early = 1841 + 7948 * LAYERS
    assert hlo.total_cycles(text, 32) == 1849 + 7948 * STEPS * LAYERS + 32 * early
    assert hlo.total_cycles(text, 32) - hlo.total_cycles(text, 31) == early


NEXT = "%next = s32[] add(%i.0, %one)"


def program(condition: str, *entry: str, others: str = "", following: str = NEXT) -> str:
    """A program of one loop, in the words of the compilers."""
    lines = "\n".join(f"  {line}" for line in entry)
    return f"""HloModule m, is_scheduled=true

%inside (p.0: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p.0 = (s32[]{{:T(128)}}, f32[8]{{0:T(256)S(1)}}) parameter(0)
  %one = s32[] constant(1)
  %i.0 = s32[] get-tuple-element(%p.0), index=0
  {following}
  %x.0 = f32[8] get-tuple-element(%p.0), index=1
  ROOT %t.0 = (s32[], f32[8]) tuple(%next, %x.0), backend_config={{"estimated_cycles":"10"}}
}}

{others}
%until (p.1: (s32[], f32[8])) -> pred[] {{
  %end = s32[] constant(12)
  %p.1 = (s32[], f32[8]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%p.1), index=0
  {condition}
}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
{lines}
  %w = (s32[], f32[8]{{0}}) while(%t), condition=%until, body=%inside
  ROOT %r = f32[8]{{0}} get-tuple-element(%w), index=1
}}
"""


ZERO = ("%n = s32[] constant(0)", "%t = (s32[], f32[8]) tuple(%n, %a)")
LESS = "ROOT %lt = pred[] compare(%i, %end), direction=LT"
FUSED = """%less (x: s32[], y: s32[]) -> pred[] {
  %x = s32[] parameter(0)
  %y = s32[] parameter(1)
  ROOT %c = pred[] compare(%x, %y), direction=LT
}
"""


@pytest.mark.parametrize(
    ("condition", "entry", "others", "trips"),
    [
        (LESS, ZERO, "", 12),
        (LESS, ("%n = s32[] constant(5)", "%t = (s32[], f32[8]) tuple(%n, %a)"), "", 7),
        (
            LESS,
            ("%n = s32[] constant(5)", "%c = s32[] copy(%n)", "%t = (s32[], f32[8]) tuple(%c, %a)"),
            "",
            7,
        ),
        (LESS.replace("LT", "NE"), ZERO, "", None),
        ("ROOT %both = pred[] and(%lt, %end)", ZERO, "", None),
        (
            "ROOT %f = pred[] fusion(%i, %end), kind=kLoop, calls=%less",
            ZERO,
            FUSED,
            12,
        ),
        (
            "ROOT %f = pred[] fusion(%end, %i), kind=kLoop, calls=%less",
            ZERO,
            FUSED,
            None,  # 12 < i
        ),
        # It may start anywhere.
        (LESS, ("%n = s32[] parameter(1)", "%t = (s32[], f32[8]) tuple(%n, %a)"), "", None),
        # What is compared is no counter.
        ("ROOT %lt = pred[] compare(%sum, %end), direction=LT", ZERO, "", None),
        ("%n.1 = s32[] negate(%i)\n  " + LESS.replace("%i", "%n.1"), ZERO, "", None),
    ],
)
def test_trips_by_the_condition(condition, entry, others, trips):
    text = program(condition, *entry, others=others)
    assert [nest.loops for nest in hlo.cycles(text)] == [(), (trips,)]
    assert hlo.total_cycles(text, 3) == 10 * (3 if trips is None else trips)


@pytest.mark.parametrize(
    ("following", "trips"),
    [
        (NEXT, 12),
        (NEXT.replace("%i.0, %one", "%one, %i.0"), 12),
        ("%two = s32[] constant(5)\n  %next = s32[] add(%i.0, %two)", 3),
        (NEXT.replace("%one", "%i.0"), None),
        (NEXT.replace("add", "multiply"), None),
        (NEXT.replace("%i.0, %one", "%one, %one"), None),
        ("%two = s32[] constant(-1)\n  %next = s32[] add(%i.0, %two)", None),
    ],
)
def test_trips_by_the_step(following, trips):
    text = program(LESS, *ZERO, following=following)
    assert [nest.loops for nest in hlo.cycles(text)] == [(), (trips,)]


@pytest.mark.parametrize(
    ("loop", "trips"),
    [
        (lambda x: lax.while_loop(lambda s: jnp.sum(s) < 100, lambda s: s + 1, x), None),
        (lambda x: lax.while_loop(lambda s: s < 100, lambda s: s + s, x[0].astype(int)), None),
        (lambda x: lax.fori_loop(x[0].astype(int), 10, lambda _, c: jnp.sin(c), x), None),
        (lambda x: lax.fori_loop(3, 10, lambda _, c: jnp.sin(c), x), 7),
    ],
    ids=["a sum", "no counter", "from anywhere", "known"],
)
def test_loops_of_compiled_programs(loop, trips):
    text = jax.jit(loop).lower(jnp.ones(4)).compile().as_text()
    assert {nest.loops for nest in hlo.cycles(text)} == {(), (trips,)}


def test_a_known_trip_count_comes_first():
    text = program(LESS, *ZERO).replace(
        "body=%inside", 'body=%inside, backend_config={"known_trip_count":{"n":"4"},"x":1}'
    )
    assert hlo.total_cycles(text) == 40


def test_exchanges_that_are_started_count_once():
    """Their results, without operands and contexts; those inside of calls and fusions too."""
    entry = (
        *ZERO,
        "%g = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), channel_id=1, dimensions={0}",
        "%h = f32[32]{0} all-gather-done(%g)",
        "%s = (f32[8]{0}, bf16[4,2]{1,0}) all-reduce-start(%a, %b), to_apply=%sum",
        "%q = (f32[8], bf16[4,2]) all-reduce-done(%s)",
        "%p = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a)",
        "%o = f32[8] collective-permute-done(%p)",
        "%f = f32[8] fusion(%a), kind=kCustom, calls=%scatter",
        "%x = ((f32[8]), s8[64], s32[]) async-start(%a), calls=%exchange",
        "%y = s8[64] async-done(%x), calls=%exchange",
    )
    others = (
        "%scatter (z: f32[8]) -> f32[2] {\n"
        '  ROOT %rs = f32[2]{0} reduce-scatter(%z), metadata={op_name="a/b"}\n}\n\n'
        "%exchange (z: f32[8]) -> s8[64] {\n  ROOT %aa = s8[64]{0} all-to-all(%z)\n}\n"
    )
    found = hlo.collectives(program(LESS, *entry, others=others))
    assert facts(found) == [
        ("all-gather", 128, ()),
        ("all-reduce", 32 + 16, ()),
        ("collective-permute", 32, ()),
        ("reduce-scatter", 8, ()),
        ("all-to-all", 64, ()),
    ]
    assert [c.source for c in found] == ["", "", "", "a/b", ""]


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]", 24),
        ("bf16[]", 2),
        ("pred[5]", 5),
        ("s4[8]", 4),
        ("f8e4m3fn[16]", 16),
        ("(s8[3], (f64[2]), token[])", 19),
        ("u32[0,4]", 0),
    ],
)
def test_bytes_of_types(shape, size):
    assert hlo.shape_bytes(shape) == size


def test_both_sides_of_a_conditional_count():
    others = "".join(
        f"%{name} (z: f32[8]) -> f32[8] {{\n  ROOT %{name}.1 = f32[8] add(%z, %z), "
        f'backend_config={{"estimated_cycles":"{n}"}}\n}}\n\n'
        for name, n in (("one", 100), ("two", 1000))
    )
    entry = (*ZERO, "%k = f32[8] conditional(%n, %a, %a), branch_computations={%one, %two}")
    assert hlo.total_cycles(program(LESS, *entry, others=others)) == 1100 + 120


def test_a_text_without_a_program_is_empty():
    assert computations("") == {}
    assert hlo.collectives("") == hlo.cycles("") == []


def test_only_the_outermost_loop_of_unknown_length_is_counted():
    """A loop inside it, as of a token's writing, runs once; known ones run as often as they say."""
    assert hlo.runs((), 8) == 1
    assert hlo.runs((3, 5), 8) == 15
    assert hlo.runs((None, 3), 8) == 24
    assert hlo.runs((2, None, None, 3), 8) == 48
