"""What `bitlens verify` found on one machine: two questions, kept apart.

Numerical parity: does this engine compute the network? Fidelity: how close are its maps to the full-precision twin's?
"""

from bitlens.runtime.certificate.certificate import (
    CERTIFICATE_VERSION,
    Certificate,
    certificate_bytes,
    certificate_from_bytes,
    certified,
    read_certificate,
)
from bitlens.runtime.certificate.comparison import Comparison, compared_certificates

__all__ = [
    "CERTIFICATE_VERSION",
    "Certificate",
    "Comparison",
    "certificate_bytes",
    "certificate_from_bytes",
    "certified",
    "compared_certificates",
    "read_certificate",
]
