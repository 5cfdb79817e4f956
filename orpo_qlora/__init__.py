"""ORPO preference tuning of a QLoRA adapter on one GPU, or on a laptop CPU."""

__version__ = "0.1.0"
