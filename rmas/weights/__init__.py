"""Reading and writing weights of Hugging Face folders, of links, and of released systems."""

from rmas.weights.load import load_model, load_params
from rmas.weights.save import config_dict, save_params

__all__ = ["config_dict", "load_model", "load_params", "save_params"]
