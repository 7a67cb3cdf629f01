"""The commands of README's "Fine-tune your own checkpoint", as they stand, on little data."""

import json
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What makes it small; each must be there.
SMALLER = {
    "vocab_size=8000": "vocab_size=300",
    "--share-all-embeddings": "--share-all-embeddings --cpu --seed 1 --encoder-layers 1 "
    "--decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2",
    '{"beam":1}': '{"beam":1,"max_len_b":20}',
    "--lr 7e-4": "--lr 0.02",
    "--warmup-updates 4000": "--warmup-updates 10",
    # A model that writes nothing yet has no BLEU.
    "--max-epoch 60": "--max-epoch 12 --validate-interval 12",
    "--max-tokens 4096": "--max-tokens 600",
    "--max-update 200": "--max-update 4",
    "--total-num-update 200": "--total-num-update 4",
    "--warmup-updates 20 ": "--warmup-updates 1 ",
    "-interval-updates 20": "-interval-updates 2",
    "0.6 1.0 1.4": "1.0",
    "--beam 5": "--beam 2 --bootstrap-samples 20 --randomization-trials 20",
}


def test_the_whole_chain_runs(forked_programs, tmp_path, data_dir):
    (commands,) = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for theirs, ours in SMALLER.items():
        assert theirs in commands, theirs
        commands = commands.replace(theirs, ours)
    for text in data_dir.iterdir():
        (tmp_path / text.name).symlink_to(text)
    (tmp_path / "fairseq_plugins").symlink_to(ROOT / "fairseq_plugins")
    environment = {
        **os.environ,
        "PATH": f"{forked_programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["baseline"] == "tuned/label_smoothed_cross_entropy/checkpoint_best.pt"
    tuned = scores["systems"]["tuned/expected_bleu/checkpoint_best.pt"]
    assert 0 < tuned["scores"]["bleu"]["p_value"] <= 1
    assert tuned["text"].endswith("test.beam2.en")
    assert len(list(tmp_path.glob("runs/evaluate/*.valid.*.en"))) == 3
