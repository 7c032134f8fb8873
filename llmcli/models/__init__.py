"""
The models: which there are, where they stand, whether a file is fit to load.

`entries` is models.yaml, `resolve` goes from a name to a file, `gguf` checks a file before anything loads it,
`checksum` its bytes; `hub`, `download` and `pull` fetch, `scan` finds what other programs have.
"""
