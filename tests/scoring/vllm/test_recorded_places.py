"""Places learnt from a loader that fuses, transposes, casts and pads, as those of vLLM do; it needs no vLLM."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from evomerge.errors import ConfigError
from evomerge.scoring.vllm import record_places

SHAPES = {
    "q.weight": (4, 6),
    "k.weight": (2, 6),
    "up.weight": (6, 3),
    "experts": (2, 4, 6),
    "embed.weight": (5, 6),
    "norm.weight": (6,),
}
Pairs = Iterable[tuple[str, Tensor]]


class Fused(nn.Module):
    """Parameters as an engine has them: one for q and k, a transposed one, experts apart, a padded table."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.up = nn.Parameter(torch.zeros(6, 6)), nn.Parameter(torch.zeros(3, 6))
        self.first, self.second = nn.Parameter(torch.zeros(4, 6)), nn.Parameter(torch.zeros(4, 6))
        self.embed, self.norm = nn.Parameter(torch.zeros(8, 6)), nn.Parameter(torch.zeros(6))

    def load_weights(self, weights: Pairs) -> None:
        for name, tensor in weights:
            if name == "q.weight":
                self.qk.data.narrow(0, 0, 4).copy_(tensor)
            elif name == "k.weight":
                self.qk.data[4:] = tensor
            elif name == "up.weight":
                self.up.data.copy_(tensor.t())
            elif name == "experts":
                for parameter, part in zip((self.first, self.second), tensor, strict=True):
                    parameter.data.copy_(part)
            elif name == "embed.weight":
                self.embed.data[:5].copy_(tensor.to(torch.float64))
            else:
                self.norm.data.copy_(tensor)


def values() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


def test_writing_by_the_places_equals_loading() -> None:
    loaded, written, tensors = Fused(), Fused(), values()
    loaded.load_weights(tensors.items())
    places = record_places(written, written.load_weights, SHAPES)
    assert all(not parameter.any() for parameter in written.parameters()), "recording writes nothing"
    with torch.no_grad():
        for name, tensor in tensors.items():
            places[name].copy_(tensor)
    for mine, theirs in zip(written.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for name, tensor in tensors.items():
        assert torch.equal(places[name].tensor(), tensor) and places[name].shape == SHAPES[name]


def test_a_tensor_that_is_copied_as_it_is_is_written_without_a_buffer() -> None:
    model = Fused()
    places = record_places(model, model.load_weights, SHAPES)
    direct = {name for name, place in places.items() if place.direct is not None}
    assert direct == {"q.weight", "k.weight", "embed.weight", "norm.weight"}
    place = places["k.weight"].direct
    assert place is not None and place.data_ptr() == model.qk.data[4:].data_ptr()


def test_a_table_that_is_loaded_twice_is_written_twice() -> None:
    class Twice(Fused):
        def load_weights(self, weights: Pairs) -> None:
            for name, tensor in weights:
                super().load_weights([(name, tensor)])
                if name == "norm.weight":
                    self.other.data.copy_(tensor)

        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.zeros(6))

    model = Twice()
    places = record_places(model, model.load_weights, SHAPES)
    with torch.no_grad():
        places["norm.weight"].copy_(torch.arange(6.0))
    assert torch.equal(model.norm, torch.arange(6.0)) and torch.equal(model.other, model.norm)


def test_a_computed_weight_is_refused_by_name() -> None:
    class Derived(Fused):
        def load_weights(self, weights: Pairs) -> None:
            super().load_weights((name, tensor + 1 if name == "norm.weight" else tensor) for name, tensor in weights)

    model = Derived()
    with pytest.raises(ConfigError, match=r"norm\.weight: vLLM's loader does not copy it whole \(0 of 6 values\)"):
        record_places(model, model.load_weights, SHAPES)


def test_a_part_that_is_left_out_is_refused_by_name() -> None:
    class Cut(Fused):
        def load_weights(self, weights: Pairs) -> None:
            super().load_weights(pair for pair in weights if pair[0] != "experts")
            for name, tensor in weights:
                if name == "experts":
                    self.first.data.copy_(tensor[0])

    model = Cut()
    with pytest.raises(ConfigError, match="experts: vLLM's loader does not copy it whole"):
        record_places(model, model.load_weights, SHAPES)


def test_a_parameter_that_nothing_fills_is_refused_by_name() -> None:
    model = Fused()
    model.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigError, match="vLLM's parameter extra has 3 values that no tensor"):
        record_places(model, model.load_weights, SHAPES)
