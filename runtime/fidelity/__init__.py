"""Fidelity metrics: how close one saliency map is to another, registered by name with range, direction and meaning."""

from bitlens.runtime.fidelity.pearson import pearson
from bitlens.runtime.fidelity.registry import METRICS, Metric, metric, register_metric
from bitlens.runtime.fidelity.sign_agreement import sign_agreement
from bitlens.runtime.fidelity.spearman import spearman
from bitlens.runtime.fidelity.ssim import ssim
from bitlens.runtime.fidelity.top_k_iou import top_k_iou

__all__ = [
    "METRICS",
    "Metric",
    "metric",
    "pearson",
    "register_metric",
    "sign_agreement",
    "spearman",
    "ssim",
    "top_k_iou",
]
