"""Faithfulness: does a map point at what the network really uses, and how noisy is it? One metric per file."""
