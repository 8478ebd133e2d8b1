"""Cycles by agent and part of a turn, from the text of a compiled program."""

from rmas.models import PREFILL
from rmas.plans import estimates
from rmas.plans.estimates import Exchanges
from rmas.system.turn import LATENT_STEPS


def cost(n: int, scope: str) -> str:
    return f'metadata={{op_name="jit(think)/{scope}"}}, backend_config={{"estimated_cycles":"{n}"}}'


TEXT = f"""HloModule think

%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p = (s32[], f32[8]) parameter(0)
  %one = f32[8]{{0}} fusion(%p), kind=kLoop, calls=%f, {cost(7, "while/body/a/latent_steps/dot")}
  %moved = f32[8]{{0}} copy(%one), backend_config={{"estimated_cycles":"3"}}
  %sum = f32[8]{{0}} all-reduce(%moved), replica_groups={{}}, to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%p, %sum)
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %read = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%f, {cost(50, "a/prefill/dot")}
  %other = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%f, {cost(20, "b/prefill/dot")}
  %free = f32[8]{{0}} copy(%x), backend_config={{"estimated_cycles":"5"}}
  %loop = (s32[], f32[8]) while(%x), condition=%c, body=%step, \
backend_config={{"known_trip_count":{{"n":"4"}}}}
  ROOT %y = f32[8]{{0}} copy(%free)
}}
"""


def test_cycles_belong_to_the_turns_that_spend_them():
    found = estimates.by_scope(TEXT, ("a", "b"))
    assert found == {
        ("a", LATENT_STEPS): 4 * (7 + 3),  # with the copy that the compiler made
        ("a", PREFILL): 50,
        ("b", PREFILL): 20,
        ("", ""): 5,
    }
    assert estimates.by_scope(TEXT, ("b",)) == {("b", PREFILL): 20, ("", ""): 55 + 40}


def test_a_token_is_one_passage_through_the_loop():
    assert estimates.per_token(TEXT) == 10


def test_exchanges_count_as_often_as_they_run():
    assert estimates.exchanges(TEXT) == Exchanges(4, 4 * 32)
