"""Volume attributes: within CSI's limits, and read back as written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneagent.common.injection import volume_attributes

_KEYS = st.sampled_from(["containers", "basePodName", "image.app", "image.web", "attribute.team", "attribute.a/b.c"])


def _bytes(attributes: dict[str, str]) -> int:
    return sum(len(text.encode()) for item in attributes.items() for text in item)


@given(st.dictionaries(_KEYS, st.text(st.characters(categories=["L", "N", "P"]), max_size=400)))
def test_no_text_is_longer_than_128_bytes_and_every_value_is_read_back(values: dict[str, str]) -> None:
    encoded, left_out = volume_attributes.encode(values)
    assert max((len(text.encode()) for item in encoded.items() for text in item), default=0) <= 128
    for key, value in values.items():
        assert volume_attributes.join(encoded, key) == ("" if key in left_out else value)
    images = {key: value for key, value in values.items() if key.startswith("image.") and value and key not in left_out}
    assert volume_attributes.with_prefix(encoded, "image.") == {
        key.removeprefix("image."): value for key, value in images.items()
    }


def test_images_are_left_out_before_resource_attributes_and_names_never() -> None:
    names = ",".join(f"container-{number}" for number in range(40))
    values = {
        "containers": names,
        **{f"image.container-{number}": f"registry.example/{'x' * 100}:{number}" for number in range(40)},
        **{f"attribute.key-{number}": "value" for number in range(20)},
    }
    encoded, left_out = volume_attributes.encode(values)
    assert _bytes(encoded) <= volume_attributes.MAX_MAP_BYTES
    assert left_out and all(key.startswith("image.") for key in left_out)
    assert "image.container-0" in encoded
    assert volume_attributes.join(encoded, "containers") == names
    assert len(volume_attributes.with_prefix(encoded, "attribute.")) == 20


def test_names_of_containers_stay_even_where_they_alone_are_too_many() -> None:
    names = ",".join(f"container-with-a-long-name-{number}" for number in range(300))
    encoded, left_out = volume_attributes.encode({"containers": names, "image.a": "b", "attribute.c": "d"})
    assert volume_attributes.join(encoded, "containers") == names
    assert left_out == ["image.a", "attribute.c"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("attribute." + "k" * 119, "v"), ("image.app", "a\nb"), ("image.a", "\x7f"), ("image.a", "i" * 513)],
)
def test_what_no_attribute_can_hold_is_left_out(key: str, value: str) -> None:
    assert volume_attributes.encode({key: value, "mode": "app"}) == ({"mode": "app"}, [key])
