"""Floor 2: embodiments, a simulated tabletop, demonstrations, a policy that obeys Japanese, and its success rate.

`stage.py` has the stages `demonstrations`, `policy` and `rollout`; `safety.py` the filter that every action passes;
`control.py` the real-time loop.
"""
