"""Commands of `python -m workers` that show what a model would be given, one module each."""
