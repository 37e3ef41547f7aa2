"""Side-by-side benchmarks that anyone can run."""
