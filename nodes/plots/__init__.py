"""Pictures that nodes draw. Host-free."""
