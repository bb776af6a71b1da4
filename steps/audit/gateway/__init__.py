"""The gateway: who may do what with a model, at what price, and the client that auditors call it by."""
