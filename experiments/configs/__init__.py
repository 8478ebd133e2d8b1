"""Experiments as data: each file has a `get_config()`."""
