"""Datasets, answer formats and grading.

rows      the row type that everything else speaks
puzzle    generated questions that one agent cannot answer alone: what they share
relay     chains of agents (relay, chain); debate: two peers and a judge
generated the generated tasks by name
benchmarks  the public datasets by name, as data; columns: how each one's rows are read
locate    their files, in a folder or from the Hub; tables: records of files, with their places
grading   a `Grader`: how an answer is read from text and scored; `*_answers` are the kinds
grader_pool  processes that grade, which no answer can stop
builders  TFDS builders (generated tasks, files, public datasets), prepared once and cached
sources   a dataset by name or path -> random-access rows per split
files     a user's own JSON or JSONL file -> rows
questions rows -> what agents are asked
pipeline  rows -> shuffled, sharded, resumable batches (Grain)
"""
