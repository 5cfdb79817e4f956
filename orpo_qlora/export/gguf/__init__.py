"""GGUF files for llama.cpp, Ollama and LM Studio: written by llama.cpp's converter, read back."""
