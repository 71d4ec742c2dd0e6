"""Scores of videos of talking persons, and a report that says how they came about (docs/evaluation.md)."""
