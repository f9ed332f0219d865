from ..shallow import shallow


def deep(text):
    return text + shallow()
