"""Selection of the device to run on."""

from __future__ import annotations

import torch


def select_device(device: str | int | torch.device | None = None, current: torch.device | None = None) -> torch.device:
    """Return the device that `device` denotes: "cpu", "cuda", "cuda:1", 1, "1", "mps", or a `torch.device`.

    None and "" mean `current`, the device of the model, if that is an accelerator; else the current CUDA device if
    there is one, else the CPU. Of several devices ("0,1") the first is used, because prediction runs on one.
    Raises ValueError for a device that is unknown or not available, and TypeError for other types.
    """
    if device is None or device == "":
        if current is not None and current.type != "cpu":
            return current
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise TypeError(f'device must be a name such as "cpu" or "cuda:0", a number or a torch.device, not {device!r}')
    name = str(device).strip().lower().split(",")[0].strip()
    try:
        chosen = torch.device(f"cuda:{name}" if name.isdigit() else name)
    except RuntimeError as error:
        raise ValueError(f'device={device!r} is not a device; use "cpu", "cuda", "cuda:0", 0 or "mps"') from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise ValueError(f'device={device!r} is out of range; CUDA devices found: {count}; "cpu" always works')
        return chosen if chosen.index is not None else torch.device("cuda", torch.cuda.current_device())
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f'device={device!r} is not available; "cpu" always works')
    if chosen.type not in ("cpu", "mps"):
        raise ValueError(f'device={device!r} is not supported; use "cpu", "cuda" or "mps"')
    # As tensors report it: "cpu:0" and "mps" would never equal the device of a model that is there already.
    return torch.device("cpu") if chosen.type == "cpu" else torch.device("mps", chosen.index or 0)
