import json
from dataclasses import asdict, dataclass

import pytest
from pydantic import Field, model_validator

from deepstreaks_dask.errors import DeepStreaksError, TriageError
from deepstreaks_dask.utils.validation import STRICT, ListOf, StrictModel, validate, validate_json


class Part(StrictModel):
    nights: ListOf[int]


class Format(StrictModel):
    name: str
    members: ListOf[str] = Field(min_length=1)
    level: float = Field(0.5, ge=0, le=1)
    exact: bool = False
    part: Part | None = None

    @model_validator(mode="after")
    def _agree(self) -> "Format":
        if self.exact and self.level != 1:
            raise ValueError("an exact one has\nlevel 1")
        return self


GOOD = {"name": "x", "members": ["a", "b"], "level": 1, "part": {"nights": [1, 2]}}


def test_what_fits_is_a_frozen_value():
    found = validate(Format, json.loads(json.dumps(GOOD)), source="x.json")
    assert found == Format(name="x", members=("a", "b"), level=1.0, part=Part(nights=(1, 2)))
    assert hash(found) == hash(validate(Format, GOOD, source="y.json"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": None}, "x.json: name: must be text, not None; make it anew"),
        ({"name": 3}, "x.json: name: must be text, not 3; make it anew"),
        ({"members": "a"}, "x.json: members: must be a list, not 'a'; make it anew"),
        ({"members": ["a", 3]}, "x.json: members[1]: must be text, not 3; make it anew"),
        ({"level": "0.5"}, "x.json: level: must be a number, not '0.5'; make it anew"),
        ({"level": True}, "x.json: level: must be a number, not True; make it anew"),
        (
            {"level": 2},
            "x.json: level: input should be less than or equal to 1, not 2; make it anew",
        ),
        (
            {"level": float("nan")},
            "x.json: level: input should be a finite number, not nan; make it anew",
        ),
        ({"exact": 1}, "x.json: exact: must be true or false, not 1; make it anew"),
        ({"exact": True, "level": 0.5}, "x.json: an exact one has level 1; make it anew"),
        (
            {"memberz": 1},
            "x.json: memberz: did you mean 'members'? no such field is known; make it anew",
        ),
        ({"part": []}, "x.json: part: must be a table, not []; make it anew"),
        (
            {"part": {"nights": [1, 2.5]}},
            "x.json: part.nights[1]: must be a whole number, not 2.5; make it anew",
        ),
        ({"part": {}}, "x.json: part.nights: is missing; make it anew"),
        ({"name": 1, "level": "a"}, "x.json: name: must be text, not 1 (and 1 more); make it anew"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(change, line):
    with pytest.raises(TriageError) as caught:
        validate(
            Format, {**GOOD, **change}, source="x.json", error=TriageError, remedy="make it anew"
        )
    assert str(caught.value) == line


def test_a_long_value_is_cut():
    with pytest.raises(DeepStreaksError) as caught:
        validate(Format, {**GOOD, "name": list(range(1000))}, source="x.json")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("values", [None, [], "x", 3])
def test_what_is_no_table_is_refused(values):
    with pytest.raises(DeepStreaksError, match=r"x\.json: must be a table"):
        validate(Format, values, source="x.json")


@dataclass(frozen=True)
class Record:
    __pydantic_config__ = STRICT

    name: str
    nights: tuple[int, ...]
    level: float = 0.5


def test_a_dataclass_comes_back_from_json_as_it_went():
    record = Record("x", (1, 2), 0.25)
    assert validate_json(Record, json.dumps(asdict(record)), source="x.json") == record


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ('{"name": "x"', "x.json: invalid JSON"),
        ("[" * 100_000, "x.json: invalid JSON"),
        ("[]", "x.json: must be a table, not []"),
        ('{"name": "x"}', "x.json: nights: is missing"),
        ('{"name": "x", "nights": [1.5]}', "x.json: nights[0]: must be a whole number, not 1.5"),
        ('{"name": "x", "nights": [], "more": 1}', "x.json: more: no such field is known"),
        ('{"name": "x", "nights": [], "level": NaN}', "x.json: level: input should be a finite"),
    ],
)
def test_json_that_does_not_fit_ends_in_one_line(data, line):
    with pytest.raises(TriageError) as caught:
        validate_json(Record, data, source="x.json", error=TriageError)
    assert str(caught.value).startswith(line)
    assert len(str(caught.value)) < 200
