"""What networks of sequences take: scaled stamps, features of epochs, batches with little padding."""

import numpy as np
import pytest

from deepstreaks_dask.archive.schema import EPOCHS
from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.models.sequence.preprocessing import (
    FEATURES,
    STAMPS_PER_BATCH,
    batched,
    cut,
    pad,
    padding,
    prepare,
)
from deepstreaks_dask.simulation.sequences import simulate_sequences


def sequences(counts, *, seed=0, **columns):
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts, np.int64)
    n = int(counts.sum())
    epochs = {
        name: np.full(n, column.missing, object if column.dtype == "string" else column.dtype)
        for name, column in EPOCHS.items()
    }
    epochs["mjd"] = np.concatenate([np.sort(rng.uniform(58000, 58100, k)) for k in counts])
    stamps = rng.normal(100, 5, (n, 21, 21)).astype(np.float32)
    return Sequences(stamps, counts, epochs | columns)


def test_empty_sky_is_noise_of_one_whether_it_is_known_or_not():
    many = sequences([40])
    n = 40
    known = {"sky": np.full(n, 100.0), "gain": np.full(n, 2.0), "read_noise": np.zeros(n)}
    # 100 counts of 2 electrons each: a variance of 50
    scaled = prepare(Sequences(many.stamps, many.counts, many.epochs | known)).pixels
    np.testing.assert_allclose(scaled, (many.stamps - 100) / np.sqrt(50), rtol=1e-5, atol=1e-6)
    guessed = prepare(many).pixels
    assert abs(np.median(guessed)) < 0.05
    assert guessed.std() == pytest.approx(1, abs=0.05)


def test_unknown_sky_and_noise_are_the_edges_median_and_median_deviation():
    few = sequences([300])
    few.stamps[np.random.default_rng(1).random(few.stamps.shape) < 0.2] = np.nan
    edge = np.ones((21, 21), bool)
    edge[3:-3, 3:-3] = False
    values = few.stamps[:, edge].astype(float)
    sky = np.nanmedian(values, axis=1)
    noise = 1.4826 * np.nanmedian(np.abs(values - sky[:, None]), axis=1)
    sky, noise = sky.astype(np.float32)[:, None, None], noise.astype(np.float32)[:, None, None]
    np.testing.assert_array_equal(prepare(few).pixels, np.nan_to_num((few.stamps - sky) / noise))


def test_what_is_not_known_is_zero_and_what_is_too_bright_is_bounded():
    few = sequences([3])
    few.stamps[0, 5:8] = np.nan
    few.stamps[1, 2, 2] = np.inf
    few.stamps[2] = np.nan
    few.stamps[2, 10, 10] = 7
    prepared = prepare(few)
    assert np.isfinite(prepared.pixels).all()
    assert np.isfinite(prepared.features).all()
    assert (prepared.pixels[0, 5:8] == 0).all()
    assert prepared.pixels.max() <= 1e5
    assert (prepared.features[:, FEATURES.index("fwhm")] == 0).all()
    assert not prepared.features[:, FEATURES.index("g") :].any()


def test_a_brighter_sky_and_a_deeper_exposure_are_told_apart_from_the_object():
    one = sequences([3], zero_point=np.array([25, 25, 27.5], np.float32))
    one.stamps[1] = 100 + 2 * (one.stamps[0] - 100)  # twice the noise
    one.stamps[2] = one.stamps[0]
    depth = prepare(one).features[:, FEATURES.index("depth")]
    assert depth[0] == 0
    assert depth[1] == pytest.approx(np.log(2), rel=1e-4)
    assert depth[2] == pytest.approx(-np.log(10), rel=1e-4)  # one count is a tenth as bright


def test_gaps_are_in_hours_since_the_last_and_the_first_epoch():
    times = np.array([58000, 58000.5, 58003.0])
    features = prepare(sequences([3], mjd=times, band=np.array(["g", "z", ""], object))).features
    hours = np.expm1(5 * features[:, :2].astype(float))
    np.testing.assert_allclose(hours, [[0, 0], [12, 12], [60, 72]], rtol=1e-4, atol=1e-6)
    bands = features[:, FEATURES.index("g") :]
    np.testing.assert_array_equal(bands, [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])


def test_an_epoch_knows_nothing_of_later_ones():
    (batch,) = simulate_sequences(3, "ztf", "rcnn", seed=1)
    whole = Sequences(batch.cutouts, batch.counts, batch.epochs)
    expected = prepare(whole)
    first = np.concatenate([start + np.arange(5) for start in whole.starts])
    later = np.concatenate(
        [np.arange(a + 5, b) for a, b in zip(whole.starts, whole.ends, strict=True)]
    )
    early = prepare(whole.only(first, np.full(3, 5)))
    np.testing.assert_array_equal(early.features, expected.features[first])
    np.testing.assert_array_equal(early.pixels, expected.pixels[first])
    late = prepare(whole.only(later, whole.counts - 5), early.begun)
    np.testing.assert_array_equal(late.features, expected.features[later])


def test_batches_hold_every_object_once_padded_behind():
    counts = np.random.default_rng(1).integers(1, 60, 120)
    prepared = prepare(sequences(counts))
    ends = np.cumsum(counts)
    seen = []
    for batch in batched(prepared, 256):
        assert batch.mask.size <= 256
        assert batch.stamps.shape[:2] == batch.features.shape[:2] == batch.mask.shape
        assert not batch.stamps[~batch.mask].any()
        assert not batch.features[~batch.mask].any()
        for row, mask, stamps in zip(batch.rows, batch.mask, batch.stamps, strict=True):
            assert mask.sum() == counts[row]
            assert mask[: counts[row]].all()
            mine = prepared.pixels[ends[row] - counts[row] : ends[row]]
            np.testing.assert_array_equal(stamps[mask], mine)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(120))


def test_an_object_too_long_for_a_batch_is_alone_in_one():
    (first, second) = batched(prepare(sequences([3, 300])), 64)
    assert (first.rows.tolist(), second.rows.tolist()) == ([0], [1])
    assert pad(prepare(sequences([2])), np.array([0])).mask.shape == (1, 2)


def test_little_is_wasted():
    rng = np.random.default_rng(2)
    crts = 4 * rng.integers(12, 30, 256)  # objects of a shard
    hits = rng.integers(17, 31, 256)
    for counts in (crts, hits):
        ordered = np.sort(counts)
        sizes = [len(ordered[part]) * ordered[part][-1] for part in cut(ordered)]
        assert padding(counts) == pytest.approx(1 - counts.sum() / sum(sizes))
        assert max(sizes) <= STAMPS_PER_BATCH
        assert padding(counts) < 0.05
        # as they come, in as many batches
        parts = np.array_split(counts, len(sizes))
        assert 1 - counts.sum() / sum(len(p) * p.max() for p in parts) > 0.2
    assert padding(np.array([], int)) == 0
