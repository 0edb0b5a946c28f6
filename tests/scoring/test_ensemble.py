"""The decision rule, against a loop that spells it out."""

import keras
import numpy as np
import pytest
import xarray as xr
from dask.distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from deepstreaks_dask.archive.append import CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.errors import CampaignError, DeepStreaksError
from deepstreaks_dask.models.registry import build
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.campaign import score
from deepstreaks_dask.scoring.decision import Decision
from deepstreaks_dask.scoring.ensemble import Ensemble
from deepstreaks_dask.scoring.plan import CampaignOptions

MEMBERS = ["rb_vgg6", "rb_resnet50", "sl_vgg6", "kd_vgg6", "kd_resnet50"]
VALUES = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, np.nan])


def dataset(values):
    return xr.Dataset(
        {"scores": (("cutout", "model"), np.asarray(values, np.float32))}, {"model": MEMBERS}
    )


def spelled_out(row, limit):
    verdict = []
    for family in ("rb", "sl", "kd"):
        mine = [
            (s, limit(m)) for s, m in zip(row, MEMBERS, strict=True) if m.startswith(f"{family}_")
        ]
        passes = any(s >= np.float32(t) for s, t in mine)
        verdict.append("yes" if passes else "open" if any(np.isnan(s) for s, _ in mine) else "no")
    plausible = verdict == ["yes"] * 3
    return plausible, not plausible and "no" not in verdict


@given(
    arrays(np.float32, (7, 5), elements=VALUES.map(np.float32)),
    st.dictionaries(
        st.sampled_from([*MEMBERS, "rb", "sl", "kd"]), st.sampled_from([0, 0.3, 0.7, 1])
    ),
)
def test_rule(values, thresholds):
    decision = Decision(thresholds)

    def limit(member):
        return thresholds.get(member, thresholds.get(member[:2], 0.5))

    decided = decision.apply(dataset(values))
    expected = [spelled_out(row, limit) for row in values]
    assert list(decided["plausible"].values) == [p for p, _ in expected]
    assert list(decided["undecided"].values) == [u for _, u in expected]


def test_one_shot_has_no_say_beside_the_three_families():
    both = dataset([[0.9, 0.9, 0.9, 0.9, 0.9]])
    one_shot = xr.Dataset(
        {"scores": (("cutout", "model"), np.float32([[0.1]]))}, {"model": ["os_vgg6"]}
    )
    decided = Decision().apply(xr.concat([both, one_shot], "model"))
    assert decided["plausible"].item()
    assert not decided["family_pass"].sel(family="os").item()
    assert not Decision().apply(one_shot)["plausible"].item()  # alone, it decides
    assert not Decision(deciding=("os",)).apply(decided)["plausible"].item()


def test_mistakes_are_named(zoo):
    with pytest.raises(DeepStreaksError, match="did you mean 'kd_vgg6'"):
        Decision({"kd_vgg": 0.5}).apply(dataset(np.zeros((1, 5))))
    with pytest.raises(DeepStreaksError, match="from 0 to 1"):
        Decision({"kd": 1.5})
    with pytest.raises(CampaignError, match="no member of family 'os'"):
        Ensemble.from_zoo(zoo, ["rb", "os"])


def test_from_zoo_takes_every_member(zoo):
    families = Ensemble.from_zoo(zoo)
    assert [member.ref for member in families.members] == ["rb_vgg6@1", "sl_vgg6@1", "kd_vgg6@1"]
    assert all(len(member.sha256) == 64 for member in families.members)


@pytest.fixture
def braai(tmp_path):
    """A network of somebody's own on triplets, and the file that makes it a family."""
    layers = keras.layers
    network = keras.Sequential(
        [layers.Input((9, 9, 3)), layers.Flatten(), layers.Dense(1, activation="sigmoid")]
    )
    network.save(tmp_path / "mine.keras")
    file = tmp_path / "families.toml"
    file.write_text(
        'zoo = "zoo"\n[braai]\nquestion = "real?"\nscaling = "l2"\nmembers = ["mine.keras"]\n'
    )
    return file, network


def test_a_network_of_ones_own_becomes_a_family_and_scores_triplets(tmp_path, braai):
    file, network = braai
    families = Ensemble.from_file(file)
    assert [(f.name, f.description, f.members[0].name) for f in families] == [
        ("braai", "real?", "braai_mine")
    ]
    assert Ensemble.from_file(file) == families  # the zoo has it by now
    triplets = np.random.default_rng(0).normal(5, 50, (10, 9, 9, 3)).astype(np.float32)
    triplets[3, :4] = np.nan
    archive = tmp_path / "alerts.zarr"
    create_archive(archive, shard=64, shape=(9, 9, 3), dtype="float32")
    ids = np.array([f"a{k}" for k in range(10)], dtype=object)
    append_batches(archive, [CutoutBatch(triplets, {"id": ids})])
    with Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None
    ) as client:
        scores = score(
            archive,
            ensemble=families,
            client=client,
            progress=False,
            options=CampaignOptions(batch=4),
        )
        with pytest.raises(CampaignError, match=r"takes cutouts of uint8 \(144, 144, 1\)"):
            score(archive, ensemble=Ensemble.from_zoo(), client=client, run="other", progress=False)
        wider = tmp_path / "wider.zarr"
        create_archive(wider, shard=64, shape=(18, 18, 3), dtype="float32")
        wide = np.repeat(triplets, 2, axis=1)[:, :, np.arange(18) % 9]
        append_batches(wider, [CutoutBatch(wide, {"id": ids})])
        with pytest.raises(CampaignError, match=r"takes cutouts of numbers \(9, 9, 3\)"):
            score(wider, ensemble=families, client=client, progress=False)
        file.write_text(file.read_text() + "resizes = true\n")
        resizing = Ensemble.from_file(file)
        assert resizing.members[0].version != families.members[0].version
        resized = score(wider, ensemble=resizing, client=client, progress=False)
    wanted = network.predict(_scaled(triplets), verbose=0)
    np.testing.assert_allclose(scores["scores"].values, wanted, atol=1e-6)
    shrunk = np.stack([_resized(plane) for plane in np.moveaxis(_scaled(wide), -1, 0)], axis=-1)
    wanted = network.predict(shrunk, verbose=0)
    np.testing.assert_allclose(resized["scores"].values, wanted, atol=1e-5)
    decided = Decision().apply(scores)
    np.testing.assert_array_equal(decided["plausible"].values, scores["scores"].values[:, 0] >= 0.5)


def _scaled(triplets):
    """Give every plane a norm of 1."""
    known = np.nan_to_num(triplets)
    return known / np.linalg.norm(known, axis=(1, 2), keepdims=True)


def _resized(planes):
    """Give planes (cutout, 9, 9), as Pillow resizes them."""
    pictures = map(Image.fromarray, planes.astype(np.float32))
    return np.array([picture.resize((9, 9), Image.Resampling.BILINEAR) for picture in pictures])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoo = ", "cannot read families"),
        ("[braai]\nmembers = ['mine.keras']", "give zoo"),
        ("zoo = 'zoo'", "a table for each family"),
        ("zoo = 'zoo'\n[braai]\nmembers = []", "needs members"),
        ("zoo = 'zoo'\n[braai]\nmembers = ['mine.keras']\nscaling = 3", "needs members"),
        ("zoo = 'zoo'\n[braai]\nmembers = ['mine.keras']\nresizes = 1", "needs members"),
        ("zoo = 'zoo'\n[braai]\nmembers = ['mine.keras']\nthreshold = 3", "threshold"),
        ("zoo = 'zoo'\n[braai]\nmembers = ['mine.keras']\nscaling = 'max'", "no scaling 'max'"),
        ("zoo = 'zoo'\n[a_b]\nmembers = ['mine.keras']", "underscore"),
        ("zoo = 'zoo'\n[braai]\nmembers = ['none.keras']", "none.keras"),
        ("zoo = 'zoo'\n[braai]\nmembers = ['braai_none']", "braai_none"),
    ],
)
def test_files_that_make_no_family(braai, text, message):
    file, _ = braai
    file.write_text(text)
    with pytest.raises(DeepStreaksError, match=message):
        Ensemble.from_file(file)


def test_one_shot_is_a_family_like_others(tmp_path):
    Zoo(tmp_path / "zoo").save(
        build("vgg6", (32, 32, 1)), Card("os_vgg6", "1", "vgg6", input_shape=(32, 32, 1))
    )
    (family,) = Ensemble.from_zoo(str(tmp_path / "zoo"), ["os"])
    assert family.description == "plausible or not, in one shot"
    alone = xr.Dataset(
        {"scores": (("cutout", "model"), np.float32([[0.1], [0.9]]))}, {"model": ["os_vgg6"]}
    )
    assert list(Decision().apply(alone)["plausible"].values) == [False, True]
