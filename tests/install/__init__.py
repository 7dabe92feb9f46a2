"""The wheel in clean environments."""
