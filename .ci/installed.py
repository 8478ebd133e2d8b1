"""From an installed wheel, in an empty folder: the embedded system is trained, evaluated, asked.

The lines of docs/index.md with few steps. The gate runs it where there is no clone.
"""

import importlib.util
import os

import rmas

assert "site-packages" in rmas.__file__, rmas.__file__
assert importlib.util.find_spec("experiments") is None, "the wheel holds rmas alone"
assert not os.listdir("."), "run it in an empty folder"

settings = rmas.embedded().to_dict()
settings["data"] |= {"train": 32, "validation": 2, "test": 4}
settings["inner"]["optim"]["steps"] = settings["outer"]["optim"]["steps"] = 2
settings["inner"]["cache_states"] = "none"
settings["outer"]["rounds"] = 1
settings["links"]["init"] = "gated"
settings["evaluate"] |= {"methods": ("latent",), "rounds": (1,), "batch_size": 4}
run = rmas.Experiment(rmas.Settings.from_dict(settings), "runs/tiny")
run.train_inner()
run.train_outer()
rows = run.evaluate()
print(rmas.table(rows))
assert [(row["method"], row["rounds"], row["n"]) for row in rows] == [("latent", 1, 4)]

system = rmas.load("runs/tiny")
reply = system.ask(run.data.questions[0].question, rounds=1)
assert reply.text and reply.counts["solver"]["decoded_tokens"], reply
assert os.listdir(".") == ["runs"]
