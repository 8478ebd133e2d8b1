"""Weights in and out, from and to ordinary Hugging Face folders."""

from rmas.weights.load import load_model, load_params
from rmas.weights.save import config_dict, save_params

__all__ = ["config_dict", "load_model", "load_params", "save_params"]
