"""Models that a user names: a run, Python code, a TorchScript or torch.export file, a module; loaded and prepared."""

from corral.targets.prepare import Preparation
from corral.targets.target import Target, load_target

__all__ = ["Preparation", "Target", "load_target"]
