"""Makes `torch_archives/`: files of torch.save, so that they are read where torch is not.

  PYTHONPATH=.:tests python tests/weights/make_torch_archives.py

`views.pt` and `views_protocol5.pt`: a plain dict; `module_state.pt`: a module's state dict with
its metadata; `module_whole.pt` (a pickled module) and `legacy.pt` (the format before zip): refused.
"""

import torch

from support import torch_samples


def views() -> dict[str, torch.Tensor]:
    """`torch_samples.views` in torch, with the same sharing."""
    expected = torch_samples.views()
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 4
    return {
        "whole": base,
        "turned": base.T,
        "row": base[1],
        "columns": base[:, 1::2],
        "corner": base[1:, 2:].T,
        "spread": torch.tensor(1.5).expand(2, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": torch.tensor(expected["half"]),
        "brain": torch.tensor(expected["brain"].astype("float32")).bfloat16(),
        "double": torch.tensor(expected["double"]),
        "parameter": torch.nn.Parameter(torch.tensor(expected["parameter"])),
    }


def module() -> torch.nn.Module:
    """The module of `torch_samples.module_state`."""
    made = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    made.load_state_dict({n: torch.tensor(a) for n, a in torch_samples.module_state().items()})
    return made


if __name__ == "__main__":
    folder = torch_samples.FOLDER
    folder.mkdir(exist_ok=True)
    torch.save(views(), folder / "views.pt")
    torch.save(views(), folder / "views_protocol5.pt", pickle_protocol=5)
    torch.save(module().state_dict(), folder / "module_state.pt")
    torch.save(module(), folder / "module_whole.pt")
    torch.save(module().state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
