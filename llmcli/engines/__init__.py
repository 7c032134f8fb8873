"""The engines: who answers. One module each, found by name; `base` says what they promise."""
