"""The measured rung: what to measure next, what measures it, what was found."""
