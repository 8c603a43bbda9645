"""Training methods by name, one file each."""

from corral.training.methods.base import METHODS, Context, Method, MethodOptions, Metrics, method_class

__all__ = ["METHODS", "Context", "Method", "MethodOptions", "Metrics", "method_class"]
