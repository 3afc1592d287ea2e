"""The composition root: command line, configuration, engines, the console and the client."""

__version__ = "0.1.0"
