"""For the project's own tests: pytest's tool for testing plugins from outside."""

pytest_plugins = ["pytester"]
