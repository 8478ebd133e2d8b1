"""Evaluation: runs methods over questions, and turns their records into numbers and pictures.

layout      names of the files of an evaluation
plan        methods, questions in groups, and the order of everything
runner      the resumable run that writes records and timings
merging     files of several processes become one, in the plan's order
ceilings    the best accuracy that any system can reach on the questions, where it is known
records     reads those files strictly
statistics  intervals, ratios, paired tests and pass@k
times       times compared within groups, and warnings where other work disturbed them
results     the rows of a report: fields, names and order
summary     records -> rows; every table, plot and JSON file shows these rows
tables      rows -> text and Markdown
plots       rows -> PNG files
reporting   writes `summary.json` and reports
show        one recorded question, turn by turn
row_maker   training rows from the texts of attempts that were right
latents     latent thoughts as nearest tokens, and how they move; latent_plots draws them
"""
