"""RecursiveMAS on JAX: frozen language models that think together in latent space.

    model, params = rmas.load_model("path/or/hub-id")      # one frozen model
    loaded = rmas.load_system("sequential_light", "root")  # agents, links, prompts

The rooms below (`rmas.models`, `rmas.system`, ...) are the library; these names are its front door.
"""

__version__ = "0.1.0"
__all__ = ["load_model", "load_system"]


def __getattr__(name: str):
    # Late, so that `import rmas` stays instant and rooms can import each other through it.
    if name == "load_model":
        from rmas.weights import load_model

        return load_model
    if name == "load_system":
        from rmas.system.released import load_system

        return load_system
    raise AttributeError(f"module 'rmas' has no attribute {name!r}")
