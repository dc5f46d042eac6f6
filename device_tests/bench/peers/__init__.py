"""Other engines, one a file: each opens a standard network, one thread, and gives a call that runs it once."""
