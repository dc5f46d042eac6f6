"""The native engine's Python half: a program is laid out for this processor, the C++ kernels run it."""
