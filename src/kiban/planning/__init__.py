"""What a run will take before it starts: cost model, search, dry run, forecast."""
