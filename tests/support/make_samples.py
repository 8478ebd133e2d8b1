"""Writes `samples/`: a few invented rows of each public dataset, in its files and columns.

python tests/support/make_samples.py
"""

import base64
import csv
import json
import pickle
import zlib
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

SAMPLES = Path(__file__).parents[1] / "tasks" / "samples"

MATH500 = [
    {
        "problem": r"What is $\frac{1}{4}+\frac{1}{4}$?",
        "solution": r"\boxed{\frac{1}{2}}",
        "answer": r"\frac{1}{2}",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/1.json",
    },
    {
        "problem": "A right angle has how many degrees?",
        "solution": r"\boxed{90^\circ}",
        "answer": r"90^\circ",
        "subject": "Geometry",
        "level": 2,
        "unique_id": "test/geometry/7.json",
    },
]
AIME25 = [
    {"problem": "Add 300 and 36.", "answer": r"336^\circ", "id": "0"},
    {"problem": "Add 60 and 2.", "answer": "062", "id": "1"},
]
AIME26 = [
    {"problem_idx": 1, "answer": 70, "problem": "Add 30 and 40."},
    {"problem_idx": 2, "answer": 5, "problem": "Add 2 and 3."},
]
GPQA = [
    {
        "Question": "Which planet is nearest to the sun?\n",
        "Correct Answer": " Mercury\n",
        "Incorrect Answer 1": "Venus",
        "Incorrect Answer 2": "Earth ",
        "Incorrect Answer 3": "Mars",
        "Explanation": "By distance.",
        "Record ID": "rec1",
        "High-level domain": "Physics",
        "Subdomain": "Astronomy",
        "Canary String": "none",
    },
    {
        "Question": 'Which gas, "laughing" by name, is N2O?',
        "Correct Answer": "Nitrous oxide",
        "Incorrect Answer 1": "Nitric oxide",
        "Incorrect Answer 2": "Ammonia",
        "Incorrect Answer 3": "Hydrazine",
        "Explanation": "Its formula.",
        "Record ID": "rec2",
        "High-level domain": "Chemistry",
        "Subdomain": "Inorganic",
        "Canary String": "none",
    },
]
MEDQA = [
    {
        "question": "Which vitamin prevents scurvy?",
        "answer": "Vitamin C",
        "options": {"A": "Vitamin A", "B": "Vitamin B12", "C": "Vitamin C", "D": "Vitamin D"},
        "meta_info": "step1",
        "answer_idx": "C",
        "metamap_phrases": ["scurvy"],
    },
    {
        "question": "Which organ makes insulin?",
        "answer": "Pancreas",
        "options": {"A": "Pancreas", "B": "Liver", "C": "Spleen", "D": "Kidney"},
        "meta_info": "step2&3",
        "answer_idx": "A",
        "metamap_phrases": ["insulin"],
    },
]
_LINES = "A. Aorta\nB. Vena cava\nC. Femur\nD. Ulna"
MEDQA_LIST = [
    {
        "idx": 0,
        "question": f"Which is the largest artery?\n{_LINES}\n{_LINES}",
        "options": ["A. Aorta", "B. Vena cava", "C. Femur", "D. Ulna"],
        "answer": "Aorta",
        "gen_text_store": "",
        "pid": "0",
        "image": None,
        "query": f"Which is the largest artery?\n{_LINES}\nChoose the correct option.",
    },
]
MEDQA_RELEASE = [
    {
        "question": "Which metal does blood need?",
        "options": ["A: Iron oxide", "B: Iron", "C: Zinc", "D: Lead"],
        "answer": "Iron",
    },
    {
        "question": "Which gas?\nA: Helium\nB: Neon\nC: Argon\nD: Xenon",
        "options": ["A: Helium", "B: Neon", "C: Argon", "D: Xenon"],
        "answer": "Argon",
    },
]
_SCRIPT = """def assertion(out, exp, atol):
    assert out == exp, f"out: {out}, exp: {exp}"

inputs = [[1, 2], [5, -5], [100, 1]]
results = [3, 0, 101]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(add_two(*inp), exp, 0)
"""
MBPPPLUS = [
    {
        "task_id": 2,
        "code": "def add_two(a, b):\n    return a + b\n",
        "prompt": "Write a function to add two numbers.",
        "source_file": "invented",
        "test_imports": ["import math"],
        "test_list": [
            "assert add_two(1, 2) == 3",
            "assert add_two(5, -5) == 0",
            "assert add_two(100, 1) == 101",
        ],
        "test": _SCRIPT,
    },
    {
        "task_id": 9,
        "code": "def is_even(n):\n    return n % 2 == 0\n",
        "prompt": "Write a function to tell whether a number is even.",
        "source_file": "invented",
        "test_imports": [],
        "test_list": [
            "assert is_even(2) == True",
            "assert is_even(3) == False",
            "assert is_even(0) == True",
        ],
        "test": "assert is_even(2)\nassert not is_even(7)\n",
    },
]


def _packed(tests: list) -> str:
    """As in the dataset's files: base64 of zlib of a pickle of JSON text."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def _problem(number: str, **changes) -> dict:
    row = {
        "question_title": f"Problem {number}", "question_content": "Print the sum of two numbers.",
        "platform": "atcoder", "question_id": number, "contest_id": "c1",
        "contest_date": "2025-01-04T00:00:00", "starter_code": "", "difficulty": "easy",
        "public_test_cases": json.dumps(
            [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
        ),
        "private_test_cases": _packed([
            {"input": "5 6\n", "output": "11\n", "testtype": "stdin"},
            {"input": "0 0\n", "output": "0\n", "testtype": "stdin"},
        ]),
        "metadata": "{}",
    }  # fmt: skip
    return row | changes


LIVECODEBENCH = [
    _problem("abc1_a"),
    _problem(
        "3001",
        question_content="Return the two numbers in order.", platform="leetcode",
        starter_code="class Solution:\n    def order(self, a: int, b: int) -> List[int]:\n        ",
        public_test_cases=json.dumps(
            [{"input": "2\n1", "output": "[1, 2]", "testtype": "functional"}]
        ),
        private_test_cases=json.dumps(
            [{"input": "7\n-7", "output": "[-7, 7]", "testtype": "functional"}]
        ),
        metadata=json.dumps({"func_name": "order"}),
    ),
]  # fmt: skip
HOTPOTQA = [
    {
        "id": "5a1",
        "question": "Which river flows through Rome?",
        "answer": "The Tiber",
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": ["Rome"], "sent_id": [0]},
        "context": {"title": ["Rome"], "sentences": [["The Tiber flows through Rome."]]},
    },
    {
        "id": "5a2",
        "question": "Are Rome and Milan in Italy?",
        "answer": "yes",
        "type": "comparison",
        "level": "easy",
        "supporting_facts": {"title": ["Milan"], "sent_id": [0]},
        "context": {"title": ["Milan"], "sentences": [["Milan is in Italy."]]},
    },
]
BAMBOOGLE = [
    {
        "Question": "Who wrote the play about the prince of Denmark?",
        "Answer": "William Shakespeare",
    },
    {"Question": "Who painted the Mona Lisa?", "Answer": "Leonardo da Vinci"},
]
GSM8K = [
    {
        "question": "Tom has 3 bags of 4 apples. How many apples?",
        "answer": "He has 3*4=<<3*4=12>>12 apples.\n#### 12",
    },
    {
        "question": "A hall has 50 rows of 25 seats. How many seats?",
        "answer": "There are 50*25=<<50*25=1250>>1250 seats.\n#### 1,250",
    },
]
SEQUENTIAL_MATH = [
    {
        "question": "What is 2+2?",
        "plan": "Add.",
        "refined_plan": "Add the numbers.",
        "answer": r"\boxed{4}",
        "answer_field": "4",
    },
]


def write_jsonl(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path, compression="none")


def write_csv(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


_DISTILLATION = {
    "question": "What is 1+3?",
    "refined_plan": "Add.",
    "answer": "4",
    "distill_expert": "Add the numbers.",
    "distill_learner": "It is 4.",
    "task_family": "math",
    "domain": "math",
    "type": "complete",
    "source": "s1K",
}


def _mixture(expert: str) -> dict[str, str]:
    own = {"question": "What is 1+3?", "answer": "4", f"hie_{expert}_expert": f"{expert}: 4."}
    return own | {"type": "complete", "task_family": expert, "domain": expert}


# Of the release's other training sets, a row each; not seen are the columns of mixture-summarizer
# and -outer, which stand here as the release's trainer reads them.
TRAINING = {
    "sequential-code": {
        "question": "Add one.",
        "plan": "Add.",
        "refined_plan": "Return x + 1.",
        "answer": "def f(x): return x + 1",
        "answer_field": "code",
        "type": "function",
    },
    "distillation-math": _DISTILLATION,
    "distillation-code": _DISTILLATION | {"task_family": "code", "type": "function"},
    "mixture-math": _mixture("math"),
    "mixture-code": _mixture("code"),
    "mixture-science": _mixture("science"),
    "mixture-summarizer": {
        "question": "What is 1+3?",
        "hie_math_expert": "m",
        "hie_code_expert": "c",
        "hie_science_expert": "s",
        "hie_summarizer": "So it is 4.",
    },
    "mixture-outer": {
        "question": "What is 1+3?",
        "hie_math_expert": "m",
        "hie_code_expert": "c",
        "hie_science_expert": "s",
        "answer": "4",
    },
    "deliberation": {
        "question": "What is 1+3?",
        "answer": "4",
        "deliberation_reflector": "Add.",
        "deliberation_toolcaller": "<python>print(1+3)</python>",
        "task_family": "math",
        "domain": "math",
        "tool_type": "python",
        "type": "complete",
        "source": "s1K",
        "source_idx": "7",
    },
}


def main() -> None:
    write_jsonl(SAMPLES / "math500" / "test.jsonl", MATH500)
    write_jsonl(SAMPLES / "aime25" / "test.jsonl", AIME25)
    write_parquet(SAMPLES / "aime26" / "data" / "train-00000-of-00001.parquet", AIME26)
    write_csv(SAMPLES / "gpqa" / "gpqa_diamond.csv", GPQA)
    write_jsonl(SAMPLES / "medqa" / "phrases_no_exclude_test.jsonl", MEDQA)
    (SAMPLES / "medqa_list").mkdir(exist_ok=True)
    (SAMPLES / "medqa_list" / "test.json").write_text(json.dumps(MEDQA_LIST, indent=1) + "\n")
    (SAMPLES / "medqa_release" / "dataset").mkdir(parents=True, exist_ok=True)
    (SAMPLES / "medqa_release" / "dataset" / "medqa.json").write_text(
        json.dumps(MEDQA_RELEASE, indent=1) + "\n"
    )
    write_parquet(SAMPLES / "mbppplus" / "data" / "test-00000-of-00001.parquet", MBPPPLUS)
    for n, row in enumerate(LIVECODEBENCH, 1):
        name = "test.jsonl" if n == 1 else f"test{n}.jsonl"
        write_jsonl(SAMPLES / "livecodebench" / name, [row])
    write_parquet(SAMPLES / "hotpotqa" / "distractor" / "validation-00000.parquet", HOTPOTQA)
    write_parquet(SAMPLES / "bamboogle" / "data" / "test-00000-of-00001.parquet", BAMBOOGLE)
    write_parquet(SAMPLES / "gsm8k" / "main" / "test-00000-of-00001.parquet", GSM8K)
    write_parquet(SAMPLES / "sequential-math" / "data" / "train-00000.parquet", SEQUENTIAL_MATH)
    for name, row in TRAINING.items():
        write_parquet(SAMPLES / name / "data" / "train-00000.parquet", [row])


if __name__ == "__main__":
    main()
