"""What tests share: tiny models and systems, references in PyTorch, stand-ins, samples, commands.

Imported as `from support import tiny_systems`: pytest has `tests/` in its path (`pyproject.toml`),
and a program that a test starts needs it in PYTHONPATH.
"""
