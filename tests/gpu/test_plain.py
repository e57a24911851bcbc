"""A profile as plain data and back."""

from __future__ import annotations

import pytest
import yaml

from hwsearch.errors import HwsearchError
from hwsearch.gpu.catalog import gpu_names, load_gpu
from hwsearch.gpu.plain import gpu_of_plain, plain_gpu


@pytest.mark.parametrize("name", ["cpu", *gpu_names()[:3]])
def test_a_profile_survives_yaml_to_the_last_bit(name: str) -> None:
    gpu = load_gpu(name)
    text = yaml.safe_dump(plain_gpu(gpu))
    again = gpu_of_plain(yaml.safe_load(text), "run.yaml")
    assert again == gpu and again.calibration == gpu.calibration and again.sources == gpu.sources


@pytest.mark.parametrize("broken", [None, [], {}, {"sms": "many"}])
def test_what_is_no_profile_is_refused(broken: object) -> None:
    with pytest.raises(HwsearchError, match=r"run\.yaml: not a GPU's profile"):
        gpu_of_plain(broken, "run.yaml")
    text = plain_gpu(load_gpu("t4")) | {"sms": "many"}
    with pytest.raises(HwsearchError, match=r"run\.yaml: not a GPU's profile: sms"):
        gpu_of_plain(text, "run.yaml")
