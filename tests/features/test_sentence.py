"""Text encoders of transformers: a tiny BERT over the pool's first questions, as MiniLM is run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import run as program
from coincide.config import FeaturePass
from coincide.features.engine.contract import WorkerSite
from coincide.features.signals.sentence_embedding import SentenceEmbedding, first_question
from coincide.models.sentence import HubSentence, load_text_encoder
from coincide.models.vision import HubVision
from coincide.schema import Clustering, UserError
from coincide.store import Store
from tests.features.conftest import Source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, with a tokenizer of letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("bert")
    letters = [chr(c) for c in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=64,
        )
    ).save_pretrained(path)  # fmt: skip
    return path


def test_rows_have_the_mean_of_their_first_questions_states_in_any_batch(
    folder: Path, source: Source
) -> None:
    dataset, signal = source.open(folder), SentenceEmbedding()
    model = SimpleNamespace(name="bert", dtype="float64")
    found = []
    for batch in (1, 7):
        over = type(signal).make_pass(model, source, FeaturePass(batch_size=batch))  # type: ignore[arg-type]
        assert over.config() == {"dtype": "float64"}
        with over.computer([signal], WorkerSite(folder, dataset, "cpu", 0)) as compute:
            [values], _ = compute(dataset.examples, lambda rows: None)
        found.append(values)
    np.testing.assert_array_equal(*found)
    encoder = load_text_encoder(folder, "float64", "cpu")
    assert (encoder.width, encoder.limit) == (24, 64)
    seen = 0
    for example in dataset.examples:
        text = first_question(example)
        if example.row in dataset.dropped:
            continue
        if not text:
            assert np.isnan(found[0][example.row]).all()
            continue
        seen += 1
        assert "<image>" not in text and "\n" not in text
        ids = encoder.tokenizer(text, truncation=True, max_length=64, return_tensors="pt").input_ids
        with torch.inference_mode():
            mean = encoder.model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(
            found[0][example.row], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6
        )
    assert seen > 5


def test_a_published_encoder_is_copied_whole_and_loads_from_its_artifact(
    folder: Path, tmp_path: Path
) -> None:
    hub = HubSentence(str(folder), label="bert")
    assert hub.step().key != HubVision(str(folder), label="bert").step().key
    made = Store(tmp_path).ensure(hub.step()).path / "model"
    assert load_text_encoder(made, "float32", "cpu").tokenizer("ab").input_ids
    with pytest.raises(UserError, match="does not load"):
        load_text_encoder(tmp_path, "float32", "cpu")


def test_visnec_clusters_by_sentences_where_told_and_keeps_its_key_where_not() -> None:
    plain, sentence = (
        program.compose_all(["method=visnec", *more])[0].experiment
        for more in ([], ["method.questions=sentence"])
    )
    assert "questions" not in plain.method.key_config()
    assert sentence.method.key_config()["questions"] == "sentence"
    (clusters,) = (need for need in sentence.needs if isinstance(need, Clustering))
    assert clusters.signal == SentenceEmbedding()
    assert sentence.asks("sentence") and not sentence.asks("clip")
    assert plain.asks("clip") and not plain.asks("sentence")
    with pytest.raises(UserError, match="choices: None, sentence"):
        program.compose_all(["method=visnec", "method.questions=mini"])
