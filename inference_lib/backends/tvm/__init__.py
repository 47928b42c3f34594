"""TVM: the backend, and its compiler work (schedules, rules, the search)."""
