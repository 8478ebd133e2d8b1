"""What a sweep runs, from its settings."""

import pytest

from rmas.errors import InputError
from rmas.experiment.methods import variants
from support.experiments import settings


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
    changes = {"methods": methods, "rounds": (1, 3), "latent_lengths": lengths}
    made = settings(**{f"evaluate__{name}": value for name, value in changes.items()})
    assert variants(made, ["a"]) == wanted


def test_text_recursive_needs_two_rounds():
    with pytest.raises(InputError, match=r"evaluate.rounds is \(1,\) .* text_recursive needs two"):
        settings(evaluate__methods=("text_recursive",), evaluate__rounds=(1,))
