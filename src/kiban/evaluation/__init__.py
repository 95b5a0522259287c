"""Floor 2: evaluation. Suites are data (`suites/`), scored by one small engine (`engine.py`) over log-likelihoods."""
