"""A space whose shapes train in a moment. Imports nothing: who imports Triton early runs it uninterpreted."""

SPACE = """\
shape:
  num_hidden_layers: {min: 1, max: 4}
  hidden_size: [64, 128]
  head_size: 64
  intermediate_size: [64, 128]
  vocab_size: 320
  max_position_embeddings: 64
budget: {min: 50000, max: 1M}
basket: {t4: 1.0}
workloads:
  - {lengths: "fixed:64x8"}
objectives:
  latency: {weight: 1.0}
  quality_prior: {weight: 1.0}
reference: L2-h64-a1-i128-v320-p64
"""
