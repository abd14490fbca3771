"""The server: OpenAI's interface to a base model and its adapters, upon FastAPI and uvicorn."""
