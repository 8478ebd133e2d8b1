"""Datasets, answer formats and grading.

rows        the row type that everything else uses
puzzle      generated questions that one agent cannot answer alone: what they share
relay       chains of agents (relay, chain); debate: two peers and a judge
generated   the generated tasks by name
benchmarks  the public datasets by name, as data
columns     readers of the columns of each public dataset
locate      finds their files, in a folder or on the Hub
tables      records of files, with their places
grader      what a grader is; `*_answers` are the kinds
boxed       the answer in a text; math_equality and units: whether two mathematical ones are equal
release_rule  how the public release scores answers
grading     all graders by name
grader_pool  isolated processes that grade
builders    TFDS builders (generated tasks, files, public datasets), prepared once and cached
sources     a dataset by name or path: random-access rows per split
files       rows from a user's own JSON or JSONL file
questions   rows -> the questions that agents are asked
pipeline    rows -> shuffled, sharded, resumable batches (Grain)
"""
