"""zoo shards: one small file a verb."""

from zoo.cli.verbs import Verbs

COMMANDS = {
    "build": "zoo.cli.shards.build",
    "info": "zoo.cli.shards.info",
    "head": "zoo.cli.shards.head",
    "verify": "zoo.cli.shards.verify",
    "index": "zoo.cli.shards.index",
    "repair": "zoo.cli.shards.repair",
}

command = Verbs(
    "shards",
    places=COMMANDS,
    help="Build shards, look into them, and find what is wrong with them.",
)
