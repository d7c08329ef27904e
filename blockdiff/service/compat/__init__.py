"""Endpoints for clients that speak to llama.cpp, OpenAI, Mistral or Ollama."""
