"""What a sweep runs, from its settings."""

import pytest

from rmas.errors import InputError
from rmas.experiment.identity import identity_of
from rmas.experiment.methods import variants
from support.experiments import experiment, settings


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


def test_order_and_profiles_are_no_part_of_what_an_evaluation_is(tmp_path):
    """So that an evaluation goes on from its records with other ones."""
    found = []
    for changes in ({}, {"evaluate__group_batches": 3}, {"evaluate__profile_groups": (0, 1)}):
        run = experiment(tmp_path, **changes)
        found.append(identity_of(run.settings, run._unloaded, run.data.questions, ("evaluate",)))
    assert found[0] == found[1] == found[2]
    run = experiment(tmp_path, evaluate__rounds=(1,))
    other = identity_of(run.settings, run._unloaded, run.data.questions, ("evaluate",))
    assert other != found[0]
