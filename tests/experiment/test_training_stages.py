"""Training as the front door runs it: what is checked before the first step."""

import pytest

from rmas.errors import InputError
from support.experiments import experiment


def test_no_agent_is_trained_in_a_workdir_of_another_config(tmp_path):
    """The last agent's folder is another config's: the first ones are left alone, too."""
    made = experiment(tmp_path, data__train=8, links__init="random")
    other = tmp_path / "inner" / "solver"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"seed": 5}')
    (other / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="inner/solver was made by another config"):
        made.train_inner()
    assert not (tmp_path / "settings.json").exists()
    left = {path.name for path in (tmp_path / "inner" / "planner").iterdir()}
    assert "metrics.jsonl" not in left and "links" not in left
