"""The verbs a board has: one module a verb, each with HELP, NEEDS, `add_arguments` and `run`."""
