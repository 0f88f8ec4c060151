"""Every speed claim of the README, side by side with its peers in one run: `python -m benchmarks.classic`."""
