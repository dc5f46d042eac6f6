"""Bring bitlens and a bundle to boards over SSH: each step checked, the version before kept, nothing half done."""
