"""The classification loss: cross entropy, its labels smoothed on request, and the distance to the twin's answers."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def objective(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    distil_weight: float = 0.5,
    distil_temperature: float = 4.0,
) -> Tensor:
    """Give the mean loss over some images.

    Parameters
    ----------
    logits : Tensor
        Float, of shape (N, classes), N at least 1.
    labels : Tensor
        int64 of shape (N,).
    teacher_logits : Tensor, optional
        The twin's logits for the same images, shape (N, classes); without them the loss is cross entropy alone.
    label_smoothing : float
        Share s of the target that is spread evenly over all classes (Szegedy et al., 1512.00567, section 7), 0..1
        exclusive.
    distil_weight : float
        Share w of the distillation term, 0..1.
    distil_temperature : float
        T, by which both logits are divided (Hinton et al., 1503.02531); positive.

    Returns
    -------
    Tensor
        A scalar in nats: (1 - w) H + w T^2 KL(softmax(teacher / T) || softmax(logits / T)), where H is the smoothed
        cross entropy; T^2 keeps the gradient's size independent of T.
    """
    hard = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if teacher_logits is None:
        return hard
    soft = functional.kl_div(
        functional.log_softmax(logits / distil_temperature, dim=1),
        functional.log_softmax(teacher_logits.to(logits.dtype) / distil_temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - distil_weight) * hard + distil_weight * distil_temperature**2 * soft
