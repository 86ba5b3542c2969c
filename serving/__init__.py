"""The OpenAI-compatible endpoint on the KServe model server: routes, study store, dialogue driving, results."""
