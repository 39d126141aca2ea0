"""The contract with OpenRLHF: it holds for the installed one, and a breach is named."""

from importlib import metadata

import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf_pf.training import compatibility
from openrlhf_pf.training.compatibility import check_interface, check_parameters, check_version


def test_the_installed_openrlhf_fits():
    assert check_version() == metadata.version("openrlhf")
    check_interface()


@pytest.mark.parametrize("version", ["0.10.4", "0.12.0", "1.0"])
def test_another_version_is_named(monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(ImportError, match=f"<0.12,>=0.11.0 is supported, found {version}"):
        check_version()


def test_a_missing_openrlhf_is_named(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ImportError, match="is needed, but it is not installed"):
        check_version()


def test_a_changed_method_is_named_with_what_was_expected_and_found():
    path = "openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker.make_experience"
    with pytest.raises(ImportError) as error:
        check_parameters(path, ("self", "samples"))
    assert str(error.value) == f"expected {path} to take (self, samples), found (self, samples_list)."


def test_a_method_that_is_gone_is_named():
    with pytest.raises(ImportError, match="expected OpenRLHF to have .*:PPOTrainer.gone, found nothing"):
        check_parameters("openrlhf.trainer.ppo_trainer:PPOTrainer.gone", ())


def test_a_missing_experience_field_is_named(monkeypatch):
    monkeypatch.setattr(compatibility, "EXPECTED_EXPERIENCE_FIELDS", frozenset({"sequences", "verdict"}))
    with pytest.raises(ImportError, match="no Experience.verdict"):
        check_interface()


@pytest.mark.parametrize(
    "instructions, dtype",
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, None),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, None),
        ({"architecture": "aarch64"}, None),
    ],
)
def test_the_cpu_patch_computes_in_float32_where_the_cpu_has_no_bfloat16(monkeypatch, instructions, dtype):
    from openrlhf.utils import utils
    from openrlhf.utils.deepspeed.deepspeed_utils import get_eval_ds_config, get_train_ds_config

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    if dtype is None:  # what is left to PyTorch's own answer
        dtype = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    assert utils.convert_to_torch_dtype("bf16") is dtype
    for config in (get_train_ds_config(offload=False), get_eval_ds_config(offload=False)):
        assert config["bf16"]["enabled"] == (dtype is torch.bfloat16)


def test_the_cpu_patch_leaves_accelerators_and_other_types_alone(monkeypatch):
    from openrlhf.utils import utils

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert utils.convert_to_torch_dtype("bf16") is torch.bfloat16
    assert utils.convert_to_torch_dtype("fp16") is torch.float16


def test_the_adamw_that_the_cpu_patch_chooses_makes_the_update_that_deepspeed_compiles():
    """200 steps of AdamW as DeepSpeed's fused_adam.cpp writes it, in double precision, with gradients of all sizes.

    p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) - lr decay p
    """
    lr, b1, b2, eps, decay = 1e-3, 0.9, 0.95, 1e-8, 0.01
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 32, generator=generator) * 0.05
    found, expected = torch.nn.Parameter(start.clone()), start.double()
    optimizer = torch.optim.AdamW([found], lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay, foreach=None)
    m = v = torch.zeros_like(expected)
    for t in range(1, 201):
        size = 10 ** float(torch.empty(()).uniform_(-4, 0, generator=generator))
        gradient = torch.randn(64, 32, generator=generator) * size
        found.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        expected = expected - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps) - lr * decay * expected
    assert (expected - start).abs().max() > 0.01, "it has moved"
    assert (found.double() - expected).abs().max() < 2e-6
