"""Slots of the latent action model: things that move on their own, by hand numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wbvla_train.lam.config import ModelConfig, preset
from wbvla_train.lam.geometry import lens_from_view
from wbvla_train.lam.model import LatentActionModel
from wbvla_train.lam.probe import one_hot, r_squared
from wbvla_train.lam.slots import Found, Slots, mask_loss

TWO = replace(preset("debug", "mani").model, slots=2)  # 32 px: masks of 8 x 8


def _lens(count: int) -> torch.Tensor:
    return lens_from_view(torch.tensor([[0.8, 0.6, 0.7]])).expand(count, -1)


@pytest.fixture
def slots() -> Slots:
    torch.manual_seed(0)
    return Slots(TWO, stride=4)


def test_a_place_belongs_to_at_most_one_thing_and_untrained_slots_lie_side_by_side(slots):
    found = slots.find(torch.randn(3, 3, 32, 32), _lens(3))
    assert found.masks.shape == (3, 2, 8, 8) and found.masks.min() >= 0.0 and found.masks.sum(1).max() <= 1.0
    assert (found.centres[:, 0, 0] < -0.2).all() and (found.centres[:, 1, 0] > 0.2).all(), "left arm, right arm"


def test_how_far_a_slot_went_is_what_its_own_token_says(slots):
    masks = torch.zeros(1, 2, 8, 8)
    before = Found(masks, torch.tensor([[[-0.5, 0.0], [0.5, 0.25]]]))
    after = Found(masks, torch.tensor([[[-0.5, 0.0], [0.75, 0.125]]]))  # the second one: 0.25 to the right, 0.125 up
    moved = slots.moved(before, after)
    assert moved.shape == (1, 2, TWO.code_dim) and not moved[0, 0].any(), "the first one rests"
    torch.testing.assert_close(moved[0, 1], 0.25 * slots.direction[1, 0] - 0.125 * slots.direction[1, 1])
    torch.testing.assert_close(slots.moved(after, before), -moved)


def test_a_thing_is_carried_as_a_whole_to_where_its_shift_says(slots):
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 1, 2:4, 1:3] = 1.0  # rows 2 and 3, columns 1 and 2
    with torch.no_grad():
        slots.shift.zero_()
        slots.shift[1, 0, 0], slots.shift[1, 1, 1] = 1.0, 1.0  # the second slot's shift are the first two values of its code
    values = torch.ones(1, TWO.tokens, TWO.code_dim)  # other tokens say nothing to it
    values[0, 1, :2] = torch.tensor((0.5, 0.25))  # of half an image: 2 columns to the right, 1 row down
    flow = slots.flow(Found(masks, torch.zeros(1, 2, 2)), values)
    there = torch.zeros(8, 8)
    there[3:5, 3:5] = 1.0
    torch.testing.assert_close(flow[0, 0], -0.5 * there)  # backward flow: where to fetch it from
    torch.testing.assert_close(flow[0, 1], -0.25 * there)


def test_masks_are_drawn_to_where_the_frames_differ():
    first = torch.zeros(1, 3, 32, 32)
    later = first.clone()
    later[..., :16] = 1.0  # the left half changed
    unsure = torch.full((1, 2, 8, 8), 0.25)  # one half of each place, both together
    assert mask_loss(unsure, first, later).item() == pytest.approx(np.log(2.0), rel=1e-5)
    right = torch.zeros(1, 2, 8, 8)
    right[:, 0, :, :4] = 1.0
    assert mask_loss(right, first, later).item() == pytest.approx(1e-4, rel=1e-2)
    assert mask_loss(right.flip(3), first, later).item() == pytest.approx(-np.log(1e-4), rel=1e-2)


def test_all_that_a_prediction_with_slots_knows_of_the_later_frame_is_its_codes():
    torch.manual_seed(0)
    model = LatentActionModel(TWO).eval()
    first, later = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    out = model(first, later, _lens(4))
    again = model.predict(first, out.codes, _lens(4))
    assert torch.allclose(again.frame, out.prediction.frame, atol=1e-5) and torch.allclose(again.masks, out.prediction.masks)
    assert torch.equal(model.encode(first, later, _lens(4)), out.codes)


def _two_squares(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """One bright square at the left and one at the right, each of which rests or goes four pixels to either side [count, 2]."""
    frames, way = torch.zeros(2, count, 3, 32, 32), rng.integers(-1, 2, (count, 2))
    for i in range(count):
        for side in range(2):
            row, column = rng.integers(4, 22), 5 + 16 * side
            for later in range(2):
                left = column + 4 * later * way[i, side]
                frames[later, i, :, row : row + 6, left : left + 6] = 2.0
    return frames[0], frames[1], way


def test_codes_learn_which_of_two_things_went_where():
    torch.manual_seed(0)
    rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    model = LatentActionModel(replace(TWO, rigid=False))
    optimiser = torch.optim.AdamW(model.parameters(), 4e-3)
    first, later, _ = _two_squares(512, rng)
    for step in range(160):
        batch = torch.randint(512, (24,), generator=draw)
        out = model(first[batch], later[batch], _lens(24), continuous=step < 60)
        if step == 60:
            model.quantiser.start_from(out.z.detach(), draw)
        loss = (out.prediction.frame - later[batch]).square().mean() + out.quantiser_loss + 0.2 * mask_loss(out.prediction.masks, first[batch], later[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    first, later, way = _two_squares(384, rng)
    x = one_hot(model.eval().encode(first, later, _lens(384)).numpy(), TWO.codes)
    scores = [r_squared(x[:192], way[:192, side].astype(float), x[192:], way[192:, side].astype(float)) for side in range(2)]
    assert min(scores) > 0.5, scores


def test_nothing_but_its_thing_moves_the_token_of_a_slot():
    torch.manual_seed(0)
    model = LatentActionModel(TWO).eval()
    first, later = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    before, _ = model._latent(first, later, _lens(4))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    after, _ = model._latent(first, later, _lens(4))
    assert torch.equal(before[:, :2], after[:, :2]) and not torch.isclose(before[:, 2:], after[:, 2:]).any()


def test_slots_need_a_token_each_and_leave_one():
    ModelConfig(slots=3)
    with pytest.raises(ValueError, match="4 slots and 4 tokens"):
        ModelConfig(slots=4)
