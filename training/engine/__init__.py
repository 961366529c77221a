"""How a step is computed: processes, optimisers, memory, compilation. Knows no objective."""
