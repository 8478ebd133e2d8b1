system_prompt = "Use <python> and \\boxed{}."
