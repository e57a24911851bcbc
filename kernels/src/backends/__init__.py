"""One module a backend, imported on use: `attend(q, k, v, problem) -> (out, lse)`.

lse is None where nobody asked for it. `attend_packed(qkv, problem)` beside it reads qkv in place.
"""

# Best first, where nothing was measured.
BACKENDS = ("triton", "flash_attn", "torch_flash", "efficient", "native", "sdpa", "cpu")
