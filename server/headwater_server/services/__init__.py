"""The gRPC services: each turns messages into calls of the rooms behind it, and their answers into messages."""
