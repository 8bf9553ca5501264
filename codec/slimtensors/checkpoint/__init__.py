"""Checkpoints of many files that are whole or invisible: manifest, commit, `latest`, retention. No torch here."""
