"""The three members of each family: VGG6, ResNet50 and DenseNet121.

One file an architecture, read from top to bottom like the table of its paper.
"""

__all__: list[str] = []
