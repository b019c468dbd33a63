"""Whole programs that use the library as their authors would."""
