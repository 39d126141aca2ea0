"""The contract with OpenRLHF: it holds for the installed one, and a breach is named."""

from importlib import metadata

import pytest
import torch

pytest.importorskip("openrlhf")

from openrlhf_pf.training import compatibility
from openrlhf_pf.training.compatibility import check_openrlhf, check_parameters


def test_the_installed_openrlhf_fits():
    check_openrlhf()


@pytest.mark.parametrize("version", ["0.10.4", "0.12.0", "1.0"])
def test_another_version_is_named(monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(ImportError, match=f"<0.12,>=0.11.0 is supported, found {version}"):
        check_openrlhf()


def test_a_missing_openrlhf_is_named(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ImportError, match="is needed, but it is not installed"):
        check_openrlhf()


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
        check_openrlhf()


def test_linear_layers_round_as_before_where_the_cpu_patch_has_them_multiply_in_float32():
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU multiplies bfloat16 matrices itself")
    import openrlhf.models  # noqa: F401  patched

    assert torch.nn.functional.linear.__module__ == "openrlhf.models"
    torch.manual_seed(0)
    layer, inputs = torch.nn.Linear(64, 8), torch.randn(5, 64)
    exact = layer(inputs)
    assert exact.dtype is torch.float32
    layer, inputs = layer.to(torch.bfloat16), inputs.to(torch.bfloat16).requires_grad_()
    outputs = layer(inputs)
    weights, bias = layer.weight.detach().float(), layer.bias.detach().float()
    torch.testing.assert_close(outputs, (inputs.detach().float() @ weights.T + bias).to(torch.bfloat16))
    outputs.sum().backward()
    assert torch.allclose(inputs.grad.float(), weights.sum(dim=0).expand(5, 64), rtol=0.02, atol=0.02)
    assert layer.weight.grad.dtype is torch.bfloat16
