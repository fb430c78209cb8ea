"""Backdoor attacks in NumPy: triggers, and the plan of what is poisoned and how."""
