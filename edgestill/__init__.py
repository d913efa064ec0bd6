"""edgestill: a language model from a teacher to a device."""
