"""One module a backend, each with `attend(q, k, v, packed, mask) -> (out, lse)`; imported on use."""
