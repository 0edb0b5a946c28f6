"""ResNet50 and DenseNet121 of every kind of layer, but of few: what no test of depth needs to compile."""

from contextlib import contextmanager
from unittest.mock import patch

SHALLOW = """
from deepstreaks_dask.models.architectures import densenet121, resnet50
densenet121.BLOCK_SIZES = (2, 1, 1, 1)
resnet50.STAGES = tuple((2 if k == 0 else 1, *stage[1:]) for k, stage in enumerate(resnet50.STAGES))
"""
"""Run by a process that builds shallow networks from then on."""


QUICK_XLA = "--xla_backend_optimization_level=0"
"""For a process on JAX, which would take longer to optimise what it compiles than to run it a few times."""


@contextmanager
def shallow():
    """Build shallow networks meanwhile."""
    from deepstreaks_dask.models.architectures import densenet121, resnet50
    from deepstreaks_dask.models.registry import weight_shapes

    stages, blocks = resnet50.STAGES, densenet121.BLOCK_SIZES
    with patch.object(resnet50, "STAGES", stages), patch.object(densenet121, "BLOCK_SIZES", blocks):
        exec(SHALLOW, {})
        weight_shapes.cache_clear()
        yield
    weight_shapes.cache_clear()
