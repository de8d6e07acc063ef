"""Geometry, quantiser and decoder of the latent action model, by hand numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wbvla_train.lam.config import ModelConfig, preset
from wbvla_train.lam.geometry import crop_lens, identity_grid, lens_from_view, level_rays, project, rigid_flow, rotation_matrix
from wbvla_train.lam.matching import matched_flow, seen_motion
from wbvla_train.lam.model import LatentActionModel, cost_volume
from wbvla_train.lam.quantiser import TokenQuantiser

SMALL = preset("debug", "loco").model


def _lens(pitch_deg: float = 0.0, tan_x: float = 0.8, tan_y: float = 0.5) -> torch.Tensor:
    return lens_from_view(torch.tensor([[tan_x, tan_y, np.deg2rad(pitch_deg)]], dtype=torch.float32))


def test_the_ray_of_the_image_centre_points_down_by_the_pitch():
    ray = level_rays(_lens(40.0), 1)[0, :, 0, 0]
    assert ray.tolist() == pytest.approx([np.cos(np.deg2rad(40)), 0.0, -np.sin(np.deg2rad(40))], abs=1e-6)


def test_rays_project_back_onto_their_own_pixels():
    lens = crop_lens(_lens(33.0), torch.tensor([[0.1, -0.05, 0.85]]))
    assert torch.allclose(project(level_rays(lens, 12), lens)[0], identity_grid(12), atol=1e-5)


def test_a_crops_rays_are_those_of_the_pixels_it_shows():
    lens = _lens(25.0)
    whole = level_rays(lens, 8)
    quarter = level_rays(crop_lens(lens, torch.tensor([[0.5, -0.5, 0.5]])), 4)  # the upper right quarter
    assert torch.allclose(quarter, whole[:, :, :4, 4:], atol=1e-6)


def test_no_motion_moves_no_pixel():
    flow = rigid_flow(torch.zeros(1, 6), torch.rand(1, 1, 12, 12), _lens(40.0))
    assert flow.abs().max() < 1e-5


def test_walking_forward_magnifies_about_the_centre():
    # rho t = 0.5: a point seen now at u was at u / 1.5 before
    flow = rigid_flow(torch.tensor([[0.5, 0, 0, 0, 0, 0]]), torch.ones(1, 1, 4, 4), _lens())
    assert torch.allclose(identity_grid(4) + flow[0], identity_grid(4) / 1.5, atol=1e-5)


def test_turning_left_shows_what_was_further_left():
    angle = 0.2
    flow = rigid_flow(torch.tensor([[0, 0, 0, 0, 0, angle]]), torch.zeros(1, 1, 1, 1), _lens())
    assert flow[0, :, 0, 0].tolist() == pytest.approx([-np.tan(angle) / 0.8, 0.0], abs=1e-5)


def test_sinking_moves_the_picture_up_whatever_the_pitch():
    # what is seen now at the centre was lower in the first image (v > 0), for a level and for a pitched camera
    for pitch in (0.0, 40.0):
        flow = rigid_flow(torch.tensor([[0, 0, -0.2, 0, 0, 0]]), torch.ones(1, 1, 1, 1), _lens(pitch))
        assert flow[0, 1, 0, 0] > 0.05 and abs(float(flow[0, 0, 0, 0])) < 1e-6


def test_rotation_matrices_are_rotations_and_smooth_at_zero():
    vector = torch.tensor([[0.0, 0.0, np.pi / 2], [0.0, 0.0, 0.0]], requires_grad=True)
    matrix = rotation_matrix(vector)
    assert torch.allclose(matrix[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    matrix.sum().backward()
    assert torch.isfinite(vector.grad).all()


def test_the_gradient_passes_straight_through_the_quantiser():
    quantiser = TokenQuantiser(tokens=2, codes=4, dim=3)
    z = torch.randn(5, 2, 3, requires_grad=True)
    weight = torch.randn(5, 2, 3)
    (quantiser(z).values * weight).sum().backward()
    assert torch.allclose(z.grad, weight)  # as if values were z
    assert quantiser.codebook.grad is None or quantiser.codebook.grad.abs().max() == 0


def test_the_quantiser_loss_is_codebook_plus_a_quarter_of_commitment():
    quantiser = TokenQuantiser(tokens=1, codes=2, dim=1)
    with torch.no_grad():
        quantiser.codebook[:] = torch.tensor([[[0.0], [10.0]]])
    z = torch.tensor([[[2.0]]], requires_grad=True)
    out = quantiser(z)
    assert out.codes.tolist() == [[0]] and out.values.item() == 0.0
    assert out.loss.item() == pytest.approx(4.0 + 0.25 * 4.0)
    out.loss.backward()
    assert z.grad.item() == pytest.approx(0.25 * 2 * 2.0)  # commitment pulls z to its code
    assert quantiser.codebook.grad[0, 0, 0].item() == pytest.approx(-2 * 2.0)  # the code follows z in full
    assert quantiser.codebook.grad[0, 1, 0].item() == 0.0


def test_a_reset_takes_encoder_outputs_and_never_another_code():
    torch.manual_seed(0)
    quantiser = TokenQuantiser(tokens=2, codes=8, dim=4)
    before = quantiser.codebook.detach().clone()
    quantiser.usage[:] = 0.0  # every code of token 0 and 1 is dead ...
    quantiser.usage[1, 3] = 0.9  # ... but one
    z = torch.randn(64, 2, 4) + 5.0
    moved = quantiser.reset_unused(z, torch.Generator().manual_seed(1))
    assert int(moved.sum()) == 15 and not moved[1, 3]
    after = quantiser.codebook.detach()
    assert torch.equal(after[1, 3], before[1, 3])
    for token, code in torch.nonzero(moved).tolist():
        assert (z[:, token] == after[token, code]).all(-1).any(), "a reset code must be an encoder output of its own token"
        assert not (before[token] == after[token, code]).all(-1).any(), "a reset must not copy a code"
    assert len(torch.unique(after[0], dim=0)) == 8, "dead codes must not land on one place"


def test_a_reset_prefers_outputs_that_their_code_serves_badly():
    quantiser = TokenQuantiser(tokens=1, codes=2, dim=1)
    with torch.no_grad():
        quantiser.codebook[:] = torch.tensor([[[0.0], [-50.0]]])
    quantiser.usage[:] = torch.tensor([[1.0, 0.0]])
    z = torch.zeros(100, 1, 1)
    z[7] = 30.0  # the only output that is far from its code
    quantiser.reset_unused(z, torch.Generator().manual_seed(0))
    assert quantiser.codebook[0, 1, 0].item() == 30.0


def test_the_continuous_start_ends_with_all_codes_on_encoder_outputs():
    torch.manual_seed(0)
    quantiser = TokenQuantiser(tokens=2, codes=8, dim=4)
    z = torch.randn(32, 2, 4, requires_grad=True)
    bypassed = quantiser(z, continuous=True)
    assert torch.equal(bypassed.values, z) and bypassed.loss.item() == 0.0
    assert quantiser.start_from(z.detach(), torch.Generator().manual_seed(0)).all()
    for token in range(2):
        assert (quantiser.codebook[token][:, None] == z[:, token]).all(-1).any(1).all()
    assert len(torch.unique(quantiser(z).codes[:, 0])) == 8


def test_usage_and_reset_leave_living_codes_alone():
    quantiser = TokenQuantiser(tokens=1, codes=4, dim=2)
    before = quantiser.codebook.detach().clone()
    for _ in range(300):
        quantiser.note_usage(torch.arange(32)[:, None] % 4)
    assert torch.allclose(quantiser.usage, torch.full((1, 4), 0.25), atol=1e-3)
    assert not quantiser.reset_unused(torch.randn(32, 1, 2), torch.Generator()).any()
    assert torch.equal(before, quantiser.codebook.detach())


def test_an_untrained_model_without_rigid_motion_copies_the_first_frame():
    torch.manual_seed(0)
    model = LatentActionModel(ModelConfig(**{**vars(SMALL), "rigid": False}))
    first, later = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(first, later, _lens().expand(2, -1)).prediction.frame, first, atol=1e-4)


def test_all_that_a_prediction_knows_of_the_later_frame_is_its_codes():
    torch.manual_seed(0)
    model = LatentActionModel(SMALL).eval()
    first, later = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    lens = _lens().expand(4, -1)
    out = model(first, later, lens)
    assert torch.allclose(model.predict(first, out.codes, lens).frame, out.prediction.frame, atol=1e-5)
    assert torch.equal(model.encode(first, later, lens), out.codes)


def _texture(count: int, size: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return F.interpolate(torch.randn(count, 3, size // 3, size // 3, generator=draw), size=(size, size), mode="bicubic")


def test_matching_finds_how_a_rigid_scene_moved():
    first, lens = _texture(8, 48), _lens(30.0).expand(8, -1)
    motion = torch.tensor(
        [[0.2, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.15, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.15]]
    ).repeat(2, 1)
    true = rigid_flow(motion, torch.full((8, 1, 48, 48), 0.6), lens)
    grid = identity_grid(48) + true
    later = F.grid_sample(first, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False)
    seen = (grid.abs() < 0.9).all(1)
    missed, moved = (((flow * 24.0).norm(dim=1)[seen]).median() for flow in (matched_flow(first, later)[0] - true, true))
    assert moved > 2.0 and missed < 0.35, f"{missed:.2f} of {moved:.2f} px"


def test_two_cameras_see_the_same_turn_alike():
    """A heading that turned left by 0.1 rad turns every ray to the right about the vertical, whatever the lens and the pitch."""
    for lens in (_lens(10.0), _lens(45.0, 0.5, 0.4)):
        first, angle = _texture(1, 48), 0.1
        flow = rigid_flow(torch.tensor([[0, 0, 0, 0, 0, angle]]), torch.zeros(1, 1, 48, 48), lens)
        later = F.grid_sample(first, (identity_grid(48) + flow).permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False)
        told = seen_motion(first, later, lens, 4)[0, :, 3:9, 3:9]  # away from the edges
        unit, turned = told[:3].flatten(1), told[3:6].flatten(1) / 10.0
        expected = torch.linalg.cross(torch.tensor([0.0, 0.0, angle])[:, None].expand_as(unit), unit, dim=0)  # backward: where it came from, to the left
        assert (turned - expected).norm(dim=0).median() < 0.25 * expected.norm(dim=0).median()


def test_nothing_turns_where_nothing_moved():
    first = _texture(2, 48)
    told = seen_motion(first, first, _lens(40.0).expand(2, -1), 4)
    assert told[:, 3:6].abs().max() < 0.02 and told[:, :3].norm(dim=1) == pytest.approx(1.0, abs=1e-5)


def test_the_cost_volume_finds_a_shift():
    torch.manual_seed(0)
    first = torch.nn.functional.avg_pool2d(torch.randn(1, 3, 52, 52), 5, stride=1)  # [1, 3, 48, 48], smooth
    later = torch.roll(first, shifts=1, dims=3)  # everything moved right by one pixel
    cost = cost_volume(first, later)[0, :25, 3:-3, 3:-3].mean((1, 2))  # finest scale, away from the border
    dy, dx = divmod(int(cost.argmin()), 5)
    assert (dy - 2, dx - 2) == (0, 1)


def test_the_motion_is_a_linear_map_of_the_codes():
    torch.manual_seed(0)
    model = LatentActionModel(SMALL).eval()
    first, lens = torch.randn(1, 3, 32, 32), _lens()
    values = torch.randn(3, SMALL.tokens, SMALL.code_dim)

    def motion(v):
        return model.decoder(first, v[None], lens).motion[0]

    assert torch.allclose(motion(values[0] + values[1]), motion(values[0]) + motion(values[1]), atol=1e-6)
