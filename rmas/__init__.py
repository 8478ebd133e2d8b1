"""RecursiveMAS on JAX: frozen language models that think together in latent space."""

__version__ = "0.1.0"
