"""Where Driftwheel touches the world: one module or folder per system, named by nouns."""
