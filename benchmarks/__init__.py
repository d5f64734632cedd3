"""How fast Swerve is, measured against a peer on the same machine in the same run: `python -m benchmarks.compare`."""
