"""Many trainings from one recipe, each scored as it would be used. The program is `python -m scripts.sweep`."""
