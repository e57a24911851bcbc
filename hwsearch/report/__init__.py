"""A run's answer for people: a table for the terminal, a page for the browser."""
