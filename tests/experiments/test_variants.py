"""What a sweep runs, from its settings."""

import pytest

from experiments.configs.tiny_sequential import get_config
from experiments.freeze import freeze
from experiments.methods import variants
from experiments.settings import Settings
from rmas.errors import InputError


@pytest.mark.parametrize(
    ("methods", "lengths", "wanted"),
    [
        (("latent",), (), [("latent", 1, 8), ("latent", 3, 8)]),
        (("latent",), (4, 2), [("latent", r, m) for r in (1, 3) for m in (4, 2)]),
        (("text", "single"), (4,), [("text", 1, None), ("text", 3, None), ("single:a", 1, None)]),
        (("text_recursive",), (), [("text", 3, None)]),
        (("text", "text_recursive"), (), [("text", 1, None), ("text", 3, None)]),
        (("text_terse",), (), [("text_terse", 1, None), ("text_terse", 3, None)]),
    ],
)
def test_methods_rounds_and_lengths(methods, lengths, wanted):
    config = get_config()
    changes = {"methods": methods, "rounds": (1, 3), "latent_lengths": lengths}
    config.update_from_flattened_dict({f"evaluate.{name}": v for name, v in changes.items()})
    assert variants(freeze(config, Settings), ["a"]) == wanted


def test_text_recursive_needs_two_rounds():
    config = get_config()
    config.update_from_flattened_dict(
        {"evaluate.methods": ("text_recursive",), "evaluate.rounds": (1,)}
    )
    with pytest.raises(InputError, match=r"text_recursive, but evaluate.rounds is \(1,\)"):
        freeze(config, Settings)
