"""Datasets, answer formats and grading.

rows      the row type that everything else speaks
puzzle    generated questions that one agent cannot answer alone: what they share
relay     chains of agents (relay, chain); debate: two peers and a judge
generated the generated tasks by name
grading   a `Task`: how an answer is read from text and scored
builders  TFDS builders (generated tasks, and JSON or JSONL files), prepared once and cached
sources   a dataset by name or path -> random-access rows per split
files     a user's own JSON or JSONL file -> rows
pipeline  rows -> shuffled, sharded, resumable batches (Grain)
"""
