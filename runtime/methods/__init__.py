"""Explanation methods: pure functions of (engine, images, targets), registered by name with their cost."""

# The order of the table is the order of these lines: the plain ones first, then by kin.
from bitlens.runtime.methods import gradient  # isort: skip
from bitlens.runtime.methods import smoothgrad  # isort: skip
from bitlens.runtime.methods import integrated_gradients  # isort: skip
from bitlens.runtime.methods import smooth_taylor  # isort: skip
from bitlens.runtime.methods import adaptive_noising  # isort: skip
from bitlens.runtime.methods import guided_backprop  # isort: skip
from bitlens.runtime.methods import grad_cam  # isort: skip
from bitlens.runtime.methods import grad_cam_plus_plus  # isort: skip
from bitlens.runtime.methods import layer_cam  # isort: skip
from bitlens.runtime.methods import neuromask  # isort: skip
from bitlens.runtime.methods import finite_differences  # isort: skip
from bitlens.runtime.methods import occlusion  # isort: skip
from bitlens.runtime.methods import rise  # isort: skip
from bitlens.runtime.methods.option import Option, Value
from bitlens.runtime.methods.registry import METHODS, SURROGATE, Method, Passes, method, register_method

__all__ = [
    "METHODS",
    "SURROGATE",
    "Method",
    "Option",
    "Passes",
    "Value",
    "adaptive_noising",
    "finite_differences",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "guided_backprop",
    "integrated_gradients",
    "layer_cam",
    "method",
    "neuromask",
    "occlusion",
    "register_method",
    "rise",
    "smooth_taylor",
    "smoothgrad",
]
