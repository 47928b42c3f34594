"""What several frameworks share: buffers, CUDA graphs, fused convolutions, runners of plain functions."""
