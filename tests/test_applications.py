"""Applications: each runs from input to answer, and is recorded with what the machine took."""

import math

import pytest
import torch

from joulemeter import applications, score_tables, scoring
from test_isolate import SimulatedStage

SMALL = {
    "detection": lambda: applications.detection(64),
    "classification": lambda: applications.classification("mobilenet_v2", 32),
    "super resolution": lambda: applications.super_resolution(8, 1),
    "segmentation": lambda: applications.segmentation(65),
    "question answering": lambda: applications.question_answering(16, 1),
    "speech recognition": lambda: applications.speech(4000),
}


def test_the_set_has_the_six_published_tasks_and_no_network_twice():
    found = applications.applications()
    assert {each.task for each in found} == set(SMALL)
    assert len({each.network for each in found}) == len(found)


@pytest.mark.parametrize("task", sorted(SMALL))
def test_an_application_gives_the_same_answer_to_the_same_input(task):
    torch.manual_seed(0)
    with torch.inference_mode():
        call = SMALL[task]()
        first, second = call(), call()
    for one, other in zip(flat(first), flat(second), strict=True):
        assert torch.equal(one, other)


def flat(answer: object) -> list[torch.Tensor]:
    return (
        [torch.as_tensor(each) for each in answer] if isinstance(answer, tuple) else [torch.as_tensor(answer)]
    )


def test_answers_have_the_shape_of_their_task():
    with torch.inference_mode():
        assert SMALL["super resolution"]()().shape == (1, 3, 32, 32)
        assert SMALL["segmentation"]()().shape == (1, 480, 640)
        begin, end = SMALL["question answering"]()()
    assert 0 <= begin <= end < 16


def test_boxes_that_a_better_one_covers_are_left_out():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.05, 0.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0]])
    kept = applications._suppressed(boxes, torch.tensor([0.8, 0.9, 0.1]))
    assert kept.tolist() == [1, 2]


def test_records_are_gross_and_make_a_score_table(tmp_path):
    from joulemeter import dataset

    chosen = (applications.Application("speech recognition", "small", SMALL["speech recognition"]),)
    before = torch.get_num_threads()
    records = applications.measured(SimulatedStage(1), "simulated", chosen, limit_s=5.0)
    assert torch.get_num_threads() == before
    first = records[0]
    assert (first.level, first.family, first.backend) == ("application", "speech recognition", "CPU1")
    assert first.energy_j > first.net_energy_j > 0
    assert first.power_w == pytest.approx(first.energy_j / first.time_s)
    assert not math.isnan(first.energy_low_j)
    dataset.append(tmp_path / "d", records)
    table = score_tables.from_datasets([tmp_path / "d"], tdp_w={"": 60.0})
    (score,) = scoring.pcs(table)
    # 20 W of rest and 10 W of the call, of 60 W.
    assert score.value == pytest.approx(50, abs=5)
