"""What only an accelerator can show."""

import pytest
import torch
from fairseq_setup import FixedRows, sample_of, setup

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: the host must not wait for it"
)


@pytest.mark.parametrize("overlap", ["exact", "paper", "lower", "upper"])
def test_a_training_step_never_waits_for_the_device(corpus, overlap):
    built = setup(corpus, overlap=overlap, label_smoothing=0.1)
    dictionary = built.task.target_dictionary
    sample = sample_of([[4, 5, 6, 4], [7, 8]], dictionary.eos(), dictionary.pad())
    sample["target"] = sample["target"].cuda()
    sample["net_input"] = {key: value.cuda() for key, value in sample["net_input"].items()}
    # fairseq's own models wait in places; this one only looks its rows up.
    model = FixedRows(torch.randn(2, 5, len(dictionary), device="cuda", requires_grad=True))
    criterion = built.criterion.cuda()
    criterion(model, sample)[0].backward()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(model, sample)[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)
