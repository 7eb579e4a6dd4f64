"""Pairs on disk: what is written is read, whole shards only, splits and kinds apart."""

from dataclasses import replace

import pytest
import torch

from everreel.train.motion.pairs import PairLabel, PairStore, has_pairs, write_pairs


def _some(folder, shard, labels, frames=3):
    pairs = [torch.full((2, 4, frames, 2, 2), float(n)) for n in range(len(labels))]
    write_pairs(folder, shard, pairs, labels)


def test_what_is_written_is_read(tmp_path):
    label = PairLabel("a fox runs", "time_reversal", fps_index=0, margin=0.5, facts={"clip": 3})
    _some(tmp_path, 0, [label, PairLabel("a swan", "rating", tie=True)])
    _some(tmp_path, 1, [PairLabel("a bus", "t2v", split="held_out")], frames=5)
    store = PairStore(tmp_path)
    facts = store.labels[0].facts
    assert facts["clip"] == 3 and replace(store.labels[0], facts=label.facts) == label and len(store) == 3
    assert store.pair(1).unique().tolist() == [1.0] and store.pair(2).shape == (2, 4, 5, 2, 2)
    assert store.members("train") == {(3, 2, 2): [0, 1]}
    assert store.members("train", ties=False) == {(3, 2, 2): [0]}
    assert store.members("held_out", kinds=("rating",)) == {}
    assert store.counts == {"time_reversal": 1, "rating": 1, "t2v": 1}


def test_a_shard_without_its_labels_is_not_there(tmp_path):
    _some(tmp_path, 0, [PairLabel("a fox", "t2v")])
    (tmp_path / "shard-00000.jsonl").unlink()
    assert not has_pairs(tmp_path, 0)
    with pytest.raises(ValueError, match="no complete shard"):
        PairStore(tmp_path)


def test_labels_and_pairs_are_as_many(tmp_path):
    with pytest.raises(ValueError, match="0 with 1 labels"):
        write_pairs(tmp_path, 0, [], [PairLabel("a fox", "t2v")])


def test_a_film_has_one_name_in_every_store(tmp_path):
    one, other = torch.zeros(4, 3, 2, 2), torch.ones(4, 3, 2, 2)
    said = PairLabel("a fox", "rating", facts={"films": ["first.mp4", "second.mp4"]})
    write_pairs(tmp_path / "a", 0, [torch.stack([one, other]), torch.stack([one, other])], [PairLabel("", "t2v"), said])
    write_pairs(tmp_path / "b", 0, [torch.stack([other, one])], [PairLabel("", "t2v")])
    (named, kept), (turned,) = (PairStore(tmp_path / name).labels for name in ("a", "b"))
    assert named.facts["films"] == turned.facts["films"][::-1] and len({*named.facts["films"]}) == 2
    assert kept.facts == said.facts
