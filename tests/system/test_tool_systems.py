"""Tools in whole systems: real programs and searches of an agent that thinks in latents."""

import json
import re

import numpy as np
import pytest
from test_writing import make_agent

from rmas.system.answers import Limits, Question
from rmas.system.load import System
from rmas.system.prompts import from_json
from rmas.system.run import Runner
from rmas.system.sampling import Sampling
from rmas.system.styles import DELIBERATION
from rmas.tools import Index, Passage, PythonTool, SearchTool, Toolbox
from rmas.tools import Limits as ProgramLimits
from rmas.tools.index import build as build_index
from support.sandboxes import build
from support.tiny_systems import random_links

# What a random agent may write: each call is one word of its vocabulary.
PROGRAMS = {
    "6*7": "42",
    "print(2**10)": "1024",
    "1/0": "ZeroDivisionError",
    "while 1: pass": r"\[stopped: it ran longer than 0\.4 seconds\]",
    "open('/etc/shadow')": "FileNotFoundError",
    "__import__('socket').create_connection(('1.1.1.1', 53))": "OSError",
    "__import__('os').kill(1, 9)": r"PermissionError|\(no output\)",
}
WORDS = (
    *("[PAD]", "[UNK]", "[END]", "<result>", "</result>", "lake", "river", "hill", "sea"),
    *("<search> lake </search>", "<search> nowhere </search>"),
    *(f"<python> {program} </python>" for program in PROGRAMS),
)
PROMPTS = {
    "name": "tools",
    "system": {"default": "", "deliberation": ""},
    "roles": {
        "reflector": {
            "math": {"first": "lake {question}", "later": "lake {slot:toolcaller} {question}"}
        },
        "toolcaller": {"math": {"first": "river {slot:reflector} {question}"}},
    },
}
QUESTIONS = [Question(f"q{i}", text) for i, text in enumerate(("lake", "river", "6*7", "1/0"))]


@pytest.fixture(scope="module")
def toolbox(tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "index.db"
    build_index(path, [Passage("Waters", "A lake is not a river."), Passage("Hills", "High.")])
    limits = ProgramLimits(wall=0.4)
    return Toolbox([PythonTool(build("bubblewrap"), limits), SearchTool(Index(path))], calls=3)


@pytest.mark.slow
def test_programs_and_searches_on_the_latent_path(toolbox):
    agents = {name: make_agent("hybrid", words=WORDS) for name in DELIBERATION.agents}
    prompts = from_json(json.dumps(PROMPTS), "PROMPTS")
    system = System(DELIBERATION, agents, prompts, "math", {"toolcaller": toolbox})
    links = random_links(system.spec("ln_res").links, 5, np.float32)
    runner = Runner(system, Limits(3, 24, 12), Sampling(temperature=3.0), seed=0)
    uses = []
    for index in range(2):
        answers = runner.latent(links, "ln_res", QUESTIONS, 2, 4, rollout_index=index)
        for answer in answers:
            uses += answer.tools
            (whole,) = answer.texts["toolcaller"]
            at = 0
            for use in answer.tools:
                assert (use["agent"], use["round"]) == ("toolcaller", 2)
                at = whole.index(use["result"], at) + 1
            if not answer.tools:
                assert whole == answer.text
            assert "<result>\n" not in answer.text
    done = {
        use["body"].strip(): use["result"]
        for use in uses
        if use["tool"] == "python" and not use["failed"]
    }
    ran = [body for body in done if body in PROGRAMS]
    assert len(ran) >= 5, done
    for body in ran:
        assert re.search(PROGRAMS[body], done[body]), (body, done[body])
    found = {use["body"]: use["result"] for use in uses if use["tool"] == "search"}
    assert "[1] Waters\nA lake is not a river." in found[" lake "]
    # Alone, a question gets the same answer, tools and all.
    again = runner.latent(links, "ln_res", QUESTIONS[:1], 2, 1, rollout_index=1)
    assert again == answers[:1]


@pytest.mark.slow
def test_in_text_exchange_only_those_call_who_may(toolbox):
    agents = {name: make_agent("dense", words=WORDS) for name in DELIBERATION.agents}
    prompts = from_json(json.dumps(PROMPTS), "PROMPTS")
    system = System(DELIBERATION, agents, prompts, "math", {"toolcaller": toolbox})
    runner = Runner(system, Limits(3, 20, 16), Sampling(temperature=3.0), seed=0)
    answers = runner.text(QUESTIONS, 2, 4)
    uses = [use for answer in answers for use in answer.tools]
    assert {use["agent"] for use in uses} == {"toolcaller"}
    assert {use["round"] for use in uses} == {1, 2}
    chat = agents["reflector"].chat
    for question, answer in zip(QUESTIONS, answers, strict=True):
        assert [len(texts) for texts in answer.texts.values()] == [2, 2]
        # What the reflector reads of the toolcaller are its words, without what its tools said.
        heard = answer.texts["toolcaller"][0]
        for use in answer.tools:
            heard = heard.replace(f"\n{use['result']}\n", "\n")
        prompts = [f"lake {question.text}", f"lake {heard} {question.text}"]
        read = sum(len(chat.data_ids(prompt)) for prompt in prompts)
        assert answer.counts["reflector"]["prompt_tokens"] == read
