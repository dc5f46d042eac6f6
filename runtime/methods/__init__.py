"""Explanation methods: pure functions of (engine, images, targets), registered by name with their cost."""

from bitlens.runtime.methods import grad_cam, gradient
from bitlens.runtime.methods.registry import METHODS, SURROGATE, Method, method, register_method

__all__ = ["METHODS", "SURROGATE", "Method", "grad_cam", "gradient", "method", "register_method"]
