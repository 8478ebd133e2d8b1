"""What the PyTorch release computes from a system on disk, written naively.

Nothing of `rmas` is used: prompts are filled by `str.format`, rendered, split at their slots and
tokenized in pieces; batches are left-padded; every latent step re-reads the whole prompt, without
a cache and with positions counted over the padded length; text is transformers' `generate`.
Import after `pytest.importorskip("torch")`.
"""

import contextlib
import dataclasses
import json
from pathlib import Path

import jinja2
import numpy as np
import torch
import transformers

from support import torch_links

KEYS = {
    "sequential": {"planner>critic": "12", "critic>solver": "23", "solver>planner": "31"},
    "mixture": {
        "math>summarizer": "1s",
        "code>summarizer": "2s",
        "science>summarizer": "3s",
        "summarizer>math": "s1",
        "summarizer>code": "s2",
        "summarizer>science": "s3",
    },
    "distillation": {"expert>learner": "el", "learner>expert": "le"},
    "deliberation": {"reflector>toolcaller": "rt", "toolcaller>reflector": "tr"},
}
"""Who writes to whom, in the order of their turns, and the `outer_` key of the link. The last
agent writes the text; what it sends is read in the next round."""


@dataclasses.dataclass
class Expected:
    """Arrays as `experiments.dump_latents` names them, and answers by number of rounds (`R1`).

    `margins` are the distances between the best and the second logit at each id of an answer.
    """

    arrays: dict[str, np.ndarray]
    ids: dict[str, list[list[int]]]
    margins: dict[str, list[list[float]]]
    texts: dict[str, list[str]]


class _Slot:
    """`"{slot:planner}".format(slot=_Slot())` marks the place."""

    def __format__(self, source: str) -> str:
        return f"\ufdd0{source}\ufdd1"


@dataclasses.dataclass
class Agent:
    """A model of a system with its tokenizer and inner link."""

    model: torch.nn.Module
    tokenizer: transformers.PreTrainedTokenizerBase
    inner: torch.nn.Module

    def segments(self, system: str, template: str, values: dict[str, str]):
        """Token ids and senders in turn: ids, sender, ids, ..."""
        user = template.format(**values, slot=_Slot())
        rendered = None
        if system:
            with contextlib.suppress(jinja2.TemplateError):
                rendered = self._render({"role": "system", "content": system}, user)
        rendered = rendered or self._render(None, f"{system}\n\n{user}" if system else user)
        first, *others = rendered.split("\ufdd0")
        pieces = [self._ids(first)]
        for sender, text in (other.split("\ufdd1") for other in others):
            pieces += [sender, self._ids(text)]
        return pieces

    def _render(self, system: dict | None, user: str) -> str:
        chat = [*([system] if system else []), {"role": "user", "content": user}]
        return self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def batch(self, prompts: list, mail: dict[str, torch.Tensor]):
        """Left-padded input vectors `[N, T, d]` and their mask; `mail` is by sender."""
        embed, rows = self.model.get_input_embeddings(), []
        for n, pieces in enumerate(prompts):
            parts = [
                mail[p][n] if isinstance(p, str) else embed(torch.tensor(p, dtype=torch.long))
                for p in pieces
            ]
            rows.append(torch.cat(parts))
        longest = max(map(len, rows))
        x = torch.zeros(len(rows), longest, rows[0].shape[1])
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for n, row in enumerate(rows):
            x[n, longest - len(row) :], mask[n, longest - len(row) :] = row, 1
        return x, mask

    def think(self, x, mask, steps: int):
        """States of a rollout and what the inner link makes of them, both `[N, m, d]`."""
        hidden, mapped = [], []
        for _ in range(steps):
            out = self.model(
                inputs_embeds=x, attention_mask=mask, output_hidden_states=True, use_cache=False
            )
            hidden.append(out.hidden_states[-1][:, -1])
            mapped.append(self.inner(hidden[-1]))
            x = torch.cat([x, mapped[-1][:, None]], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return torch.stack(hidden, 1), torch.stack(mapped, 1)

    def write(self, x, mask, new_tokens: int):
        """Greedy ids of each row, its eos included, and the margin of each decision."""
        eos = self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        # As the release asks for it: none of the checkpoint's own settings but the vocabulary.
        self.model.generation_config = transformers.GenerationConfig(
            max_new_tokens=new_tokens,
            eos_token_id=eos,
            pad_token_id=eos if pad is None else pad,
            output_logits=True,
            return_dict_in_generate=True,
        )
        out = self.model.generate(inputs_embeds=x, attention_mask=mask)
        top = torch.stack(out.logits, 1).topk(2).values
        ids, margins = [], []
        for row, gaps in zip(out.sequences.tolist(), top[..., 0] - top[..., 1], strict=True):
            length = row.index(eos) + 1 if eos in row else len(row)
            ids.append(row[:length])
            margins.append(gaps[:length].tolist())
        return ids, margins


class Release:
    """A system of a style (`sequential_light`, ...) in its released layout."""

    def __init__(self, style: str, root: Path, task: str, prompts: Path):
        paradigm = style.split("_")[0]
        self.prompts = json.loads(prompts.read_text())
        texts = self.prompts["system"]
        self.system = texts.get(paradigm, texts["default"]).format()
        self.task = task
        self.edges = [tuple(edge.split(">")) for edge in KEYS[paradigm]]
        names = list(dict.fromkeys([src for src, _ in self.edges]))
        self.output = names[-1]
        with torch.no_grad():
            self.agents = {name: _load_agent(root / name, task) for name in names}
            entries = _of_task(root / "outer" / "outerlink_config.json", task)["adapters"]
            files = {entry["legacy_key"]: entry["filename"] for entry in entries}
            self.outer = {
                edge: _load_link("outer", root / "outer" / files[f"outer_{key}"])
                for edge, key in zip(self.edges, KEYS[paradigm].values(), strict=True)
            }

    def segments(self, agent: str, phase: str, question: str) -> list:
        """One agent's prompt: token ids and senders in turn."""
        phases = self.prompts["roles"][agent][self.task]
        values = {"question": question, "interface": self.prompts["interface"]["program"]}
        template = phases.get(phase, phases["first"])
        return self.agents[agent].segments(self.system, template, values)

    @torch.no_grad()
    def run(self, questions: list[str], rounds: int, steps: int, new_tokens: int) -> Expected:
        """The whole recursion over one batch of questions."""
        expected, mail = Expected({}, {}, {}, {}), {}
        for r in range(1, rounds + 1):
            for name, agent in self.agents.items():
                phase = "first" if r == 1 else "later"
                prompts = [self.segments(name, phase, question) for question in questions]
                x, mask = agent.batch(prompts, {s: z for (s, d), z in mail.items() if d == name})
                if name == self.output:
                    ids, expected.margins[f"R{r}"] = agent.write(x, mask, new_tokens)
                    decode = agent.tokenizer.decode
                    expected.ids[f"R{r}"] = ids
                    expected.texts[f"R{r}"] = [decode(i, skip_special_tokens=True) for i in ids]
                    if r == rounds:
                        break
                hidden, mapped = agent.think(x, mask, steps)
                expected.arrays[f"round{r}/{name}/hidden"] = hidden.numpy()
                for src, dst in self.edges:
                    if src == name:
                        mail[src, dst] = self.outer[src, dst](mapped)
                        key = f"round{r}/{src}->{dst}/message"
                        expected.arrays[key] = mail[src, dst].numpy()
        return expected


def _load_agent(folder: Path, task: str) -> Agent:
    config = folder / "innerlink_config.json"
    entry = _of_task(config, task)
    file = entry.get("adapter.pt") or entry["adapter"]
    return Agent(
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
        _load_link("inner", folder / file),
    )


def _load_link(kind: str, file: Path) -> torch.nn.Module:
    state = torch.load(file, weights_only=True)
    d_src = state["proj1.weight"].shape[1]
    if kind == "inner":
        link = torch_links.Inner("ln_res", d_src)
    else:
        link = torch_links.Outer("ln_res", d_src, len(state["proj2.weight"]))
    link.load_state_dict(state)
    return link.float().eval()


def _of_task(manifest: Path, task: str) -> dict:
    config = json.loads(manifest.read_text())
    return config["tasks"]["code" if task == "code" else "math"] if "tasks" in config else config
