"""Drivers, one file each: a file that defines one is found by its name, and nothing else changes."""
