"""Names of the files of an evaluation, in the folder `evaluate` of a workdir."""

FOLDER = "evaluate"
CONFIG = "config.json"
RECORDS = "records.jsonl"
TIMINGS = "timings.jsonl"
QUESTIONS = "questions.jsonl"
CEILINGS = "ceilings.json"
SUMMARY = "summary.json"
