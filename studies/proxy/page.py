"""docs/proxy.md: the text stands here, the numbers in results.json."""


def write_page() -> None:
    """Placeholder."""
