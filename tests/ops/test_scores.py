import math

import pytest
import torch

from coincide.ops.scores import aum, el2n, perplexity

ALL = (el2n, aum, perplexity)


def batch(b=3, t=9, v=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, t, v, generator=generator)
    labels = torch.randint(0, v, (b, t), generator=generator)
    labels[:, :4] = -100
    return logits, labels


def by_hand(logits, labels):
    """Every token in turn, straight from the definitions."""
    el2ns, margins, losses = [], [], []
    for t in range(1, len(labels)):
        if labels[t] == -100:
            continue
        p, y = logits[t - 1].double().softmax(-1), int(labels[t])
        onehot = torch.zeros_like(p)
        onehot[y] = 1
        el2ns.append(float((p - onehot).norm()))
        margins.append(float(p[y] - torch.cat([p[:y], p[y + 1 :]]).max()))
        losses.append(-math.log(float(p[y])))
    return [sum(values) / len(values) for values in (el2ns, margins, losses)]


def test_equal_the_definitions():
    logits, labels = batch()
    for row in range(3):
        expected = by_hand(logits[row], labels[row])
        ours = [float(score(logits, labels)[row]) for score in ALL]
        assert ours == pytest.approx(expected, abs=1e-6)


def test_uniform_and_perfect_predictions():
    logits, labels = batch(v=8)
    flat = torch.zeros_like(logits)
    assert el2n(flat, labels).tolist() == pytest.approx([math.sqrt(1 - 1 / 8)] * 3)
    assert aum(flat, labels).tolist() == pytest.approx([0] * 3)
    assert perplexity(flat, labels).tolist() == pytest.approx([math.log(8)] * 3)

    sure = torch.full_like(logits, -1e4)
    sure[:, :-1].scatter_(2, labels[:, 1:, None].clamp(min=0), 1e4)
    assert el2n(sure, labels).tolist() == [0] * 3
    assert aum(sure, labels).tolist() == [1] * 3
    assert perplexity(sure, labels).tolist() == [0] * 3


def test_perplexity_is_the_loss_of_a_causal_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    ids = torch.randint(0, 16, (1, 12))
    labels = torch.where(torch.arange(12) < 5, -100, ids)
    with torch.no_grad():
        output = LlamaForCausalLM(config)(input_ids=ids, labels=labels)
    assert perplexity(output.logits, labels).item() == pytest.approx(output.loss.item(), rel=1e-5)


@pytest.mark.parametrize("score", ALL)
def test_do_not_depend_on_the_batch_or_on_padding(score):
    logits, labels = batch(b=5)
    alone = torch.cat([score(logits[i : i + 1], labels[i : i + 1]) for i in range(5)])
    noise = torch.randn(5, 4, logits.shape[2])
    padded_labels = torch.cat([labels, torch.full((5, 4), -100)], 1)
    padded = score(torch.cat([logits, noise], 1), padded_labels)
    assert torch.equal(score(logits, labels), alone)
    assert torch.equal(padded, alone)


@pytest.mark.parametrize("score", ALL)
def test_a_row_without_answer_tokens_is_nan_and_alone(score):
    logits, labels = batch()
    labels[1] = -100
    assert score(logits, labels).isnan().tolist() == [False, True, False]
    labels[1, 0] = 3  # the first token is predicted by nothing
    assert score(logits, labels).isnan().tolist() == [False, True, False]
    assert score(logits, torch.full_like(labels, -100)).isnan().all()


@pytest.mark.parametrize("score", ALL)
def test_leave_their_input_alone_and_take_another_ignore_index(score):
    logits, labels = batch()
    kept = logits.clone()
    expected = score(logits, labels)
    assert torch.equal(logits, kept)
    assert torch.equal(score(logits, labels.where(labels >= 0, torch.tensor(-1)), -1), expected)


def test_shapes_are_checked():
    logits, labels = batch()
    with pytest.raises(ValueError, match=r"logits \(3, 9, 11\) and labels \(3, 8\)"):
        el2n(logits, labels[:, 1:])
