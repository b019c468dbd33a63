"""Rows as bytes and back: the state of every object, by value and type."""
