"""Experiments: declared in YAML, assigned by a hash, read out with guardrails.

`config` and `reading` hold the declarations, `checking` what is wrong with them, `live` what runs now with its
model versions pinned, `assignment` the arm of a unit (`twin` says the same in SQL), `readout` the verdict.
"""
