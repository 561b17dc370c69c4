import pytest

from models.signature import Signature, SignatureMismatch

TRAINED = Signature(("a", "b", "c"), ("1", "2", "3"))


def test_the_same_features_differ_in_nothing():
    assert TRAINED.difference({"a": "1", "b": "2", "c": "3"}) == ()


@pytest.mark.parametrize(
    ("live", "said"),
    [
        pytest.param({"a": "1", "c": "3"}, ("b: missing",), id="missing"),
        pytest.param({"a": "1", "b": "9", "c": "3"}, ("b: trained on 2, live is 9",), id="changed"),
        pytest.param(
            {"b": "2", "a": "1", "c": "3"}, ("order: at place 0 the model reads a, live has b",), id="order"
        ),
        pytest.param({"x": "0", "a": "1", "y": "0", "b": "2", "c": "3"}, (), id="more is fine"),
        pytest.param({}, ("a: missing", "b: missing", "c: missing"), id="nothing"),
        pytest.param(
            {"c": "3", "b": "9"},
            ("a: missing", "b: trained on 2, live is 9", "order: at place 0 the model reads b, live has c"),
            id="all at once",
        ),
    ],
)
def test_a_difference_says_what_is_wrong(live, said):
    assert TRAINED.difference(live) == said
    if said:
        with pytest.raises(SignatureMismatch) as caught:
            TRAINED.check(live)
        assert caught.value.differences == said
        assert all(sentence in str(caught.value) for sentence in said)
    else:
        TRAINED.check(live)


def test_a_signature_survives_json():
    assert Signature.from_json(TRAINED.to_json()) == TRAINED


def test_a_signature_that_names_a_feature_twice_is_refused():
    with pytest.raises(ValueError, match="names a twice"):
        Signature(("a", "a"), ("1", "1"))


def test_a_signature_needs_a_digest_for_each_feature():
    with pytest.raises(ValueError, match="2 features has 1 digests"):
        Signature(("a", "b"), ("1",))
