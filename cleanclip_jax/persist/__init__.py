"""Whether a backdoor that was cleaned away comes back."""
