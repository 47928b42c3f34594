"""A model under load: a queue that makes batches, servers around it, and what drives and predicts them."""
