"""Floor 3: gate plans signed before the work, verdicts after it, and evidence that anyone can verify offline."""
