"""The study on disk or in a database: opened, claimed, mended; who works on which trial."""
