"""Answers: gRPC services, user states, embedding, retrieval, strategy, reload."""
