"""cuDNN's graph API: a network as a list of fused operations, in 16 and in eight bits."""
