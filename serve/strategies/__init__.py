"""The ways of asking: each kind of strategy is one frozen dataclass, whose fields are its settings in `stack.yaml`."""
