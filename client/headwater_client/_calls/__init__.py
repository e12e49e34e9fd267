"""The request/response core that both clients share: every method of the contract, written once."""
