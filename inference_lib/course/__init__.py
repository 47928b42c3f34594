"""The chapters and the book: executed, staged, rendered, published."""
