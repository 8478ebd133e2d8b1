"""RecursiveMAS on JAX: frozen language models that think together in latent space.

    run = rmas.Experiment(rmas.embedded(), "runs/tiny")  # or your own rmas.Settings(...)
    run.train_inner()
    run.train_outer()
    run.evaluate()
    system = rmas.load("runs/tiny")                      # or a released system by name
    print(system.ask("start 4 ; one add 14 mul 6 mix 10 ; stop one ?").text)

`rmas.load_model("folder or Hub id")` gives one frozen model; the packages below (`rmas.models`,
`rmas.system`, ...) are the library behind these names.
"""

__version__ = "0.2.0"

_HOME = {
    "Experiment": "rmas.experiment",
    "InputError": "rmas.errors",
    "Limits": "rmas.system.answers",
    "Optim": "rmas.training.optim",
    "Reply": "rmas.experiment",
    "Sampling": "rmas.system.sampling",
    "Settings": "rmas.experiment",
    "SystemSettings": "rmas.experiment",
    "DataSettings": "rmas.experiment",
    "EvaluateSettings": "rmas.experiment",
    "InnerSettings": "rmas.experiment",
    "LinkSettings": "rmas.experiment",
    "OuterSettings": "rmas.experiment",
    "ToolSettings": "rmas.experiment",
    "TopologySettings": "rmas.experiment",
    "TrainedSystem": "rmas.experiment",
    "embedded": "rmas.experiment",
    "load": "rmas.experiment",
    "load_model": "rmas.weights",
    "load_system": "rmas.system.outline",
    "start": "rmas.parallel",
    "table": "rmas.evaluation.tables",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    # Late, so that `import rmas` stays instant and packages can import each other through it.
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rmas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
