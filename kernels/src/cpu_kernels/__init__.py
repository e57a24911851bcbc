"""hwsearch's kernels for CPUs, in C++, compiled on first use by the machine's compiler for its CPU."""
