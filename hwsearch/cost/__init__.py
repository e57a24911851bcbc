"""Shape x workload x GPU to seconds and bytes. No torch."""
