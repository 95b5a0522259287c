"""Floor 0: what every room stands on. Manifests, the store, lineage, rights, the `@stage` decorator, progress, errors.

Imports nothing else of Kiban.
"""
