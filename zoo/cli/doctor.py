"""zoo doctor."""

import importlib.metadata
import platform
import sys

import click

PACKAGES = ("torch", "torchvision", "torchaudio", "xformers", "timm", "open-clip-torch", "monai")


@click.command()
def command() -> None:
    """Versions, devices and kernels: what a bug report needs."""
    import torch

    import zoo
    from zoo.modalities.attention import available_backends

    click.echo(f"zoo             {zoo.__version__}")
    click.echo(f"python          {platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        click.echo(f"{package:<15} {version}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            click.echo(f"cuda:{index}          {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    else:
        click.echo("cuda            none")
    click.echo(f"cpu             {torch.get_num_threads()} threads")
    click.echo(f"attention       {', '.join(available_backends())}")
    click.echo(f"command         {sys.executable}")
