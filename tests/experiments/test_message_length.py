"""Where latents win: floors by hand, the crossing, and the command as a user runs it."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import random_agents
from experiments.benchmarks.inference_paths import LATENT, Paths, Turns
from experiments.benchmarks.inference_work import Counter, lengths_of, prompt_lengths
from experiments.benchmarks.message_floors import (
    ExchangeFloors,
    interpolated_crossing,
    interval_above,
)
from experiments.benchmarks.page_region import PageRegion
from experiments.benchmarks.program_times import Figures
from experiments.benchmarks.random_agents import Sizes
from rmas import parallel
from rmas.errors import InputError
from rmas.links import LinkSpec, init_links
from rmas.system.styles import DISTILLATION
from support.commands import run

SHORT = ("--latent_steps=3", "--new_tokens=4", "--floor_lengths=2,4,64")
LITTLE = ("--system=tiny", "--prompt_tokens=40", "--batch=2", "--rounds=2", "--repeats=2")
BYTES, OPERATIONS = Figures(1.0, 1e30), Figures(1e30, 1.0)
"""Devices on which bytes, or operations, take a second each and the others nothing."""


def floors(figures, topology=DISTILLATION, rounds=1, rows=2, steps=3, preamble=0):
    """Of agents that are all the tiny Llama, in float32."""
    spec = random_agents.architectures("tiny")[1]["critic"]
    mesh = parallel.abstract_mesh(parallel.parse_mesh("single"), 1)
    specs = dict.fromkeys(topology.agents, spec)
    counter = Counter.of(topology, specs, "ln_res", mesh, np.float32, rows)
    return ExchangeFloors(counter, figures, 10, preamble, rounds, steps, new_tokens=4)


def test_one_round_of_two_agents_by_hand():
    """Prompts of 10 tokens, 2 rows; 3 latent steps or messages of 5 tokens; answers of 4."""
    kernels = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)  # q and o, k and v, MLP; two layers
    layers = 4 * (kernels + 2 * 2 * 32)  # and two norms in each
    head = 64 * 32
    position = 2 * (2 * 2 * 16 * 4)  # bytes of two rows: keys and values of 16 numbers, two layers
    widths = tuple((agent, 32) for agent in DISTILLATION.agents)
    links = init_links(LinkSpec("ln_res", widths, DISTILLATION.link_edges), jax.random.key(0))
    inner, outer = (
        sum(x.size for x in jax.tree.leaves(links[kind][name]))
        for kind, name in (("inner", "expert"), ("outer", "expert->learner"))
    )

    def token(before):
        return layers + 4 * head + position * before

    step = layers + 4 * inner + position * 11.5
    answer = 4 * head + 3 * token(10 + 3 + 2)
    # Both prefills, two latent steps, the messages: the inner link once more, and the outer one.
    assert floors(BYTES).latent == 2 * layers + 2 * step + 4 * inner + 4 * outer + answer
    message, answer = 4 * head + 4 * token(10 + 2.5), 4 * head + 3 * token(10 + 5 + 2)
    assert floors(BYTES).text(5) == 2 * layers + message + answer

    def prefill(n):  # of two rows: queries see half of the keys; two layers, two heads of 16
        return 2 * 2 * (n * kernels + 2 * 2 * 2 * 16 * n * n / 2)

    text = 2 * 2 * (4 * kernels + 5 * head) + 2 * 2 * (3 * kernels + 4 * head)
    assert floors(OPERATIONS).text(5) == prefill(10) + prefill(15) + text
    thought = 2 * 2 * (2 * kernels + 3 * inner + 3 * outer)
    answer = 2 * 2 * (3 * kernels + 4 * head)
    assert floors(OPERATIONS).latent == prefill(10) + prefill(13) + thought + answer


def test_a_preamble_is_read_once():
    whole, kept = (floors(OPERATIONS, rounds=3, preamble=n) for n in (0, 6))
    assert kept.latent < whole.latent and kept.text(5) < whole.text(5)
    # In one round nothing is read twice, and the same products are two portions.
    whole, kept = (floors(OPERATIONS, preamble=n) for n in (0, 6))
    assert kept.text(5) == pytest.approx(whole.text(5))


def test_feedback_lengthens_later_prompts():
    found = prompt_lengths(DISTILLATION, prompt=10, message=3, rounds=3)
    assert found == {"expert": [10, 13, 13], "learner": [13, 13, 13]}


@pytest.mark.parametrize("style", ["sequential_light", "mixture"])
def test_longer_messages_take_longer(style):
    topology, specs = random_agents.architectures(style)
    mesh = parallel.abstract_mesh(parallel.parse_mesh("single"), 1)
    counter = Counter.of(topology, specs, "ln_res", mesh, np.float16, 4)
    own = ExchangeFloors(counter, Figures(819e9, 197e12), 315, 231, 2, steps=8, new_tokens=8)
    ratios = [own.ratio(n) for n in range(1, 20)]
    assert ratios == sorted(ratios) and len(set(ratios)) == 19
    # A token reads the head, which a latent step does not.
    crossing = own.crossing(19)
    assert 4 < crossing <= 8
    assert own.ratio(crossing - 1) <= 1 < own.ratio(crossing)
    assert own.crossing(crossing) == crossing and own.crossing(crossing - 1) is None


def test_crossings_between_lengths():
    assert interpolated_crossing({8: 0.5, 32: 2.0}) == pytest.approx(16)
    assert interpolated_crossing({8: 0.5, 16: 2.0, 32: 0.5, 128: 2.0}) == pytest.approx(64)
    assert interpolated_crossing({8: 1.5, 16: 2.0}) == 8
    assert interpolated_crossing({8: 1.5, 16: 0.9}) is None
    assert interpolated_crossing({8: 1.5}) == 8
    assert interval_above({8: 1.1, 16: 0.9, 32: 1.2, 64: 2.0}) == 32
    assert interval_above({8: 1.1, 16: 0.9}) is None
    assert interval_above({8: None}) is None


def test_lengths_are_those_that_are_run(tmp_path):
    topology, specs = random_agents.architectures("tiny")
    random_agents.write_folders(specs, tmp_path, "float32", 0)
    sizes = Sizes(40, rows=4)
    turns = Turns(2, steps=3, new_tokens=4, message_tokens=3)
    paths = Paths.load(topology, tmp_path, sizes, turns, "float32", pytorch=False)
    assert set(paths.preambles(0).values()) == {sizes.preamble}
    thought = prompt_lengths(topology, sizes.mean, 3, 2)
    assert lengths_of(paths.prompts(0), topology) == thought
    longer = paths.with_messages(5)
    answers = longer.text(0)
    longer.check_lengths(answers)
    read = prompt_lengths(topology, sizes.mean, 5, 2)
    for agent, lengths in read.items():
        counts = [answer.counts[agent]["prompt_tokens"] for answer in answers]
        assert np.mean(counts) == pytest.approx(sum(lengths), abs=len(lengths))
    with pytest.raises(InputError, match="planner wrote 10 tokens, and not 6"):
        paths.check_lengths(answers)


def test_floors_alone(tmp_path):
    file, plot, page = (tmp_path / name for name in ("a.json", "a.png", "page.md"))
    page.write_text("A.\n<!-- message_length: begin -->\nold\n<!-- message_length: end -->\nB.\n")
    some = ("--nomeasure", "--styles=sequential_light,mixture", "--chip=v6e")
    done = run(
        "benchmarks.message_length",
        *(*some, *SHORT, f"--json={file}", f"--plot={plot}", f"--page={page}"),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(file.read_text())
    assert told["measured"] is None and list(told["floors"]) == ["sequential_light", "mixture"]
    for own in told["floors"].values():
        assert own["ratios"]["2"] < 1 < own["ratios"]["4"]
        assert own["ratios"]["4"] == own["text"]["4"] / own["latent"]
        assert own["wins_from"] == 3
        assert own["bandwidth"] == 1638e9
    assert "Floors, no measurement" in done.stdout and "| from 3 tokens |" in done.stdout
    assert page.read_text() == (
        f"A.\n<!-- message_length: begin -->\n\n{done.stdout.strip()}\n\n"
        "<!-- message_length: end -->\nB.\n"
    )
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command(tmp_path):
    file, plot = tmp_path / "a.json", tmp_path / "a.png"
    flags = (*LITTLE, *SHORT, "--lengths=2,8", "--styles=sequential_light")
    done = run("benchmarks.message_length", *flags, f"--json={file}", f"--plot={plot}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    measured = json.loads(file.read_text())["measured"]
    assert list(measured["seconds"]) == [LATENT, "2", "8"]
    assert all(len(own) == 2 and min(own) > 0 for own in measured["seconds"].values())
    for own in measured["ratios"].values():
        assert own["low"] < own["value"] < own["high"]
    assert list(measured["floor"]["ratios"]) == ["2", "8"]
    assert measured["compiling while timed"] == 0
    assert "| 8 |" in done.stdout and "Latents win" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--lengths=8,x"], "--lengths=8,x; wanted numbers above 0, as in 8,32"),
        (["--floor_lengths="], "--floor_lengths=; wanted numbers"),
        (["--floor_lengths=4096"], "its context has 4096; lower --prompt_tokens"),
        (["--lengths=2000", "--styles="], "its context has 4096; lower --prompt_tokens"),
        (["--styles=gone"], "--styles: 'gone' is unknown; known: sequential_light"),
        (["--chip=v5"], "flag --chip=v5"),
        (["--mesh=single"], "the weights of sequential_scaled take 21.0 GiB of each device"),
        (["--mesh=tensor=-1"], "--mesh=tensor=-1: name all sizes, as in tensor=4"),
        (["--system=large", "--styles="], "--system=large is no system; known: small, tiny"),
        (["--plot=gone/a.png"], "--plot=gone/a.png: there is no folder gone; make it first"),
        (["--plot=a.svg"], "--plot=a.svg: the file's name must end in .png"),
        (["--json=gone/a.json"], "--json=gone/a.json: there is no folder gone; make it first"),
        (["--page=README.md"], "it has no lines <!-- message_length: begin --> and"),
        (["--page=gone.md"], "gone.md: No such file or directory"),
        (["--nomeasure", "--styles="], "--nomeasure without --styles leaves nothing to do"),
    ],
)
def test_wrong_flags(flags, line):
    done = run("benchmarks.message_length", *flags)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and line in last


def test_a_page_is_replaced_again(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- a: begin --><!-- a: end -->")
    region = PageRegion.of(str(page), "a")
    for text in ("one\n", "two"):
        region.replace(text)
    assert page.read_text() == "<!-- a: begin -->\n\ntwo\n\n<!-- a: end -->"
    page.write_text("<!-- a: end --><!-- a: begin -->")
    with pytest.raises(InputError, match="it has no lines <!-- a: begin --> and <!-- a: end -->"):
        region.replace("three")
