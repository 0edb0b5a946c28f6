"""The decision rule, against a loop that spells it out."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepstreaks_dask.errors import CampaignError, DeepStreaksError
from deepstreaks_dask.families import Decision, Families

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
        Families.from_zoo(zoo, ["rb", "os"])


def test_from_zoo_takes_every_member(zoo):
    families = Families.from_zoo(zoo)
    assert [member.ref for member in families.members] == ["rb_vgg6@1", "sl_vgg6@1", "kd_vgg6@1"]
    assert all(len(member.sha256) == 64 for member in families.members)
