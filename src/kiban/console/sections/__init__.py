"""What each section of the report shows, read from manifests and the files beside them: one file a section.

Nothing is computed here that a stage could have measured; shares and smoothing for the eye are. A section is None where
its stage is not made.
"""
