"""Plugins, found by scanning this folder."""
