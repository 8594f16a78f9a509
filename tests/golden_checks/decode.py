"""What decoding says about the members of a fixture's samples."""

from zoo.modalities.members import decode_member

from zoo.errors import DataError


def decode_events(samples):
    """[(key, code)] in the order of `samples`, which are (key, {extension: bytes}); each once."""
    events = {}
    for key, members in samples:
        for extension, data in members.items():
            try:
                decode_member(extension, data)
            except DataError as error:
                events[key, error.code] = None
    return list(events)
