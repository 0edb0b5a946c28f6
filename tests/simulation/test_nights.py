"""Simulated nights: repeatable, labelled as the families ask, and free of giveaways."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from deepstreaks_dask.archive.append import append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import SIMULATED_KINDS
from deepstreaks_dask.readers.options import ReadOptions
from deepstreaks_dask.readers.registry import get_reader
from deepstreaks_dask.simulation.nights import Night, simulate_nights, write_images
from deepstreaks_dask.simulation.streaks import KINDS, simulate_cutout


def test_equal_seeds_give_equal_cutouts_wherever_they_are_made():
    (here,) = simulate_nights(1, 40, seed=3)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        (there,) = simulate_nights(1, 40, seed=3, executor=processes)
    np.testing.assert_array_equal(here.cutouts, there.cutouts)
    for name, values in here.columns.items():
        np.testing.assert_array_equal(values, there.columns[name])
    (other,) = simulate_nights(1, 40, seed=4)
    assert (here.cutouts != other.cutouts).any()


def test_the_archive_recognises_every_simulated_kind():
    assert set(KINDS) == SIMULATED_KINDS


def test_labels_follow_from_the_kind(simulated):
    dataset = open_archive(simulated)
    for kind, *labels in zip(
        dataset["kind"].values,
        *(dataset[f"label_{f}"].values for f in KINDS["nea"].labels),
        strict=True,
    ):
        assert labels == [KINDS[kind].labels.get(f, -1) for f in KINDS["nea"].labels]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_looks_like_a_survey_cutout(kind):
    """Dark on light grey: sky about 204 of 255, as in the real ones."""
    skies = []
    for number in range(25):
        rng = np.random.default_rng((8, number))
        conditions = Night.draw(20260101, 8).conditions(rng)
        picture = np.asarray(simulate_cutout(kind, conditions, rng).picture)
        assert picture.dtype == np.uint8
        assert 120 <= picture.shape[0] <= 180
        skies.append(np.median(picture))
    assert 185 < np.median(skies) < 225


def test_asteroids_are_dark_in_the_middle():
    darkest = []
    for number in range(40):
        rng = np.random.default_rng((9, number))
        conditions = Night.draw(20260101, 9).conditions(rng)
        picture = np.asarray(simulate_cutout("nea", conditions, rng).picture, float)
        half, edge = picture.shape[0] // 2, picture.shape[0] // 4
        middle = picture[half - 12 : half + 12, half - 12 : half + 12]
        darkest.append(middle.mean() < picture[:edge].mean())
    assert np.mean(darkest) > 0.8


def test_masks_do_not_give_the_kind_away():
    """Point sources and masks of the field occur with asteroids and without."""
    masked = {}
    for kind in ("nea", "cosmic_ray", "dipole"):
        count = 0
        for number in range(120):
            rng = np.random.default_rng((10, number))
            conditions = Night.draw(20260101, 10).conditions(rng)
            picture = np.asarray(simulate_cutout(kind, conditions, rng).picture)
            _, counts = np.unique(picture, return_counts=True)
            count += counts.max() > 0.06 * picture.size
        masked[kind] = (count, 120 - count)
    assert chi2_contingency(list(masked.values())).pvalue > 1e-6


def test_written_images_read_back_with_their_labels(tmp_path):
    table = write_images(tmp_path / "in", Night.draw(20260105, 2), 30)
    url = tmp_path / "a.zarr"
    create_archive(url, shard=64)
    result = append_batches(
        url, get_reader("images").read(tmp_path / "in" / "20260105", ReadOptions(table))
    )
    assert result.appended == 30
    dataset, written = open_archive(url), pd.read_csv(table)
    assert list(dataset["id"].values) == list(written["id"])
    assert set(dataset["night"].values) == {20260105}
    np.testing.assert_array_equal(dataset["label_kd"].values, written["label_kd"])
    np.testing.assert_allclose(dataset["ra"].values, written["ra"])
