"""Systems of agents: topologies, prompts, the recursion engine, decoding, loading, running."""
