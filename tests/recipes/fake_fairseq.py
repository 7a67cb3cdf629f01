"""Stands in for fairseq's commands: same files, same lines, no learning.

A checkpoint is a JSON list [seed words of the run, updates]. Generation copies the reference and
drops words, fewer after more updates.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

program = Path(sys.argv[0]).name
arguments = sys.argv[1:]
here = Path(sys.argv[0]).parent
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps([program, *arguments]) + "\n")
orders = json.loads((here / "orders.json").read_text()) if (here / "orders.json").exists() else {}


def value(flag):
    return arguments[len(arguments) - 1 - arguments[::-1].index(flag) + 1]


def kill():
    if orders.get("kill_parent"):
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def preprocess():
    destination = Path(value("--destdir"))
    destination.mkdir(parents=True, exist_ok=True)
    languages = [value("-s"), value("-t")]
    pair = "-".join(languages)
    for lang in languages:
        if (destination / f"dict.{lang}.txt").exists():
            sys.exit("FileExistsError: dictionary")
        (destination / f"dict.{lang}.txt").write_text("a 1\n")
    splits = [("train", value("--trainpref")), ("valid", value("--validpref"))]
    for number, prefix in enumerate(value("--testpref").split(",")):
        splits.append((f"test{number or ''}", prefix))
    for split, prefix in splits:
        for lang in languages:
            text = Path(f"{prefix}.{lang}").read_text()
            (destination / f"{split}.{pair}.{lang}.bin").write_text(text)


def train():
    save_dir = Path(value("--save-dir"))
    save_dir.mkdir(parents=True, exist_ok=True)
    if "/arms/" in str(save_dir):
        if orders.get("wait_arm") == save_dir.name:
            time.sleep(60)
        if orders.get("fail_arm") == save_dir.name:
            sys.exit("RuntimeError: out of luck")
    last = save_dir / "checkpoint_last.pt"
    done = json.loads(last.read_text())[-1] if last.exists() else 0
    tag = "2026-01-01 00:00:00 | INFO |"
    for update in range(done + 1, int(value("--max-update")) + 1):
        last.write_text(json.dumps([value("--lr"), update]))
        if "--best-checkpoint-metric" in arguments and update <= orders.get("best_at", update):
            last.with_name("checkpoint_best.pt").write_text(last.read_text())
        print(
            f"{tag} valid | epoch 001 | valid on 'valid' subset | loss 1 | bleu {update} | "
            f"num_updates {update}"
        )
        if orders.get("kill_at") == update:
            kill()
    wall = orders.get("train_wall", {}).get(save_dir.name, 12)
    figures = f"num_updates {value('--max-update')} | train_wall {wall}"
    print(f"{tag} train | epoch 001 | loss 1 | {figures}")


def generate():
    _, updates = json.loads(Path(value("--path").split(":")[-1]).read_text())
    pair = f"{value('--source-lang')}-{value('--target-lang')}"
    name = f"{value('--gen-subset')}.{pair}.{value('--target-lang')}.bin"
    targets = (Path(arguments[0]) / name).read_text().splitlines()
    dropped = 1 + int(2 * float(value("--lenpen") if "--lenpen" in arguments else 1))
    for index in reversed(range(len(targets))):
        if orders.get("kill_generate") == index:
            kill()
        pieces = targets[index].split(" ")
        print(f"T-{index}\t{targets[index]}")
        written = pieces[: -dropped if index % updates else None]
        print(f"H-{index}\t-0.5\t{' '.join(written)}")
        print(f"D-{index}\t-0.5\t{' '.join(written)}")
        print(f"P-{index}\t{' '.join(['-1.0000'] * (len(written) + 1))}")


if orders.get("fail") == program:
    print("line before the end")
    sys.exit(orders.get("fail_with", "RuntimeError: out of luck"))
{"fairseq-preprocess": preprocess, "fairseq-train": train, "fairseq-generate": generate}[program]()
