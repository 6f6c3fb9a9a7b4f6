import json
import pickle
import struct

import numpy as np
import pytest

from propeller import limits
from propeller.errors import BadInput, TooLarge
from propeller.fl.tensors import (
    EMPTY,
    Tensors,
    cast_like,
    check_finite,
    check_like,
    check_norm,
    content_hash,
    from_json,
    from_safetensors,
    frozen,
    norm,
    to_json,
    to_safetensors,
)


def tensors(**arrays):
    """A model of float64 arrays."""
    return Tensors({name: np.array(values, dtype=float) for name, values in arrays.items()})


def test_json_becomes_float64_tensors_and_metadata():
    """A number is 0-d, lists are n-d, `version` is no tensor; the way back is exact."""
    model, metadata = from_json({"w": [[1, 2.5], [3, 4]], "b": -0.0, "e": [], "version": 7.0}, "m")
    assert list(model) == ["b", "e", "w"]
    assert {name: array.shape for name, array in model.items()} == {"b": (), "e": (0,), "w": (2, 2)}
    assert all(array.dtype == "<f8" for array in model.values())
    assert metadata == {"version": 7}
    assert json.dumps(to_json(model, metadata)) == (
        '{"b": -0.0, "e": [], "w": [[1.0, 2.5], [3.0, 4.0]], "version": 7}'
    )


@pytest.mark.parametrize(
    "value",
    [None, True, "1", {}, [1, None], [True], ["1"], [[1], 2], [1, [2]], [[1], [1, 2]], [[], [1]], 10**400],
)
def test_what_is_no_tensor_is_refused_by_name(value):
    """The error says which tensor of which model."""
    with pytest.raises(BadInput, match=r"the model: tensor 'weights'"):
        from_json({"ok": 1, "weights": value}, "the model")


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 129, 3, None, "a\n"])
def test_unlawful_names_are_refused(name):
    """In JSON and in memory alike."""
    with pytest.raises(BadInput):
        from_json({name: 1}, "m")
    with pytest.raises(BadInput):
        Tensors({name: np.zeros(1)})


def test_bounds_hold():
    """Too many tensors, dimensions, or numbers behind one shared list."""
    with pytest.raises(TooLarge):
        from_json({f"t{number}": 1 for number in range(limits.TENSORS_MAX + 1)}, "m")
    deep = 1.0
    for _ in range(limits.TENSOR_DIMS_MAX + 1):
        deep = [deep]
    with pytest.raises(TooLarge):
        from_json({"t": deep}, "m")
    loop = []
    loop.append(loop)
    with pytest.raises(TooLarge):
        from_json({"t": loop}, "m")
    bomb = [1.0] * 1000
    for _ in range(5):
        bomb = [bomb] * 1000
    with pytest.raises(TooLarge, match="numbers in all"):
        from_json({"t": bomb}, "m")


def test_tensors_cannot_be_changed():
    """Neither through the mapping nor through the array that they were made from."""
    source = np.ones(3)
    model = Tensors({"a": source})
    source[0] = 5
    assert model["a"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        model["a"][0] = 2
    with pytest.raises(TypeError):
        model["a"] = source


def test_canonical_form_is_contiguous_and_little_endian():
    """Whatever came in: big-endian, transposed, strided."""
    model = Tensors({"a": np.arange(6, dtype=">f4").reshape(2, 3).T, "b": np.arange(9)[::2]})
    assert model["a"].dtype == "<f4"
    assert all(array.flags.c_contiguous for array in model.values())
    assert model["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(BadInput, match="unsupported type"):
        Tensors({"a": np.zeros(1, dtype=complex)})


def test_hash_is_the_documented_one():
    """The bytes of the framing by hand; changing any part changes it."""
    import hashlib  # noqa: PLC0415 - the reference is spelled out here

    model = Tensors({"w": np.array([1.0, 2.0], dtype="<f4"), "b": np.array(3, dtype="<f8")})
    text = b"propeller-tensors-1\0"
    text += struct.pack("<I", 1) + b"b" + struct.pack("<B", 3) + b"<f8" + b"\0" + struct.pack("<d", 3)
    text += struct.pack("<I", 1) + b"w" + struct.pack("<B", 3) + b"<f4" + struct.pack("<BQ", 1, 2)
    text += struct.pack("<ff", 1, 2)
    assert content_hash(model) == hashlib.sha256(text).hexdigest()
    others = [
        tensors(w=[1, 2], b=3),
        Tensors({"w": np.array([[1.0, 2.0]], dtype="<f4"), "b": model["b"]}),
        Tensors({"v": model["w"], "b": model["b"]}),
        Tensors({"w": model["w"], "b": np.array(-3.0)}),
        Tensors({"w": model["w"]}),
        EMPTY,
    ]
    assert len({content_hash(one) for one in [model, *others]}) == len(others) + 1


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"])
def test_safetensors_keep_every_dtype(dtype):
    """Bits, shapes and names survive; so they do through pickle, as a worker process needs."""
    model = Tensors({"a": np.arange(6).reshape(2, 3).astype(dtype), "s": np.array(1).astype(dtype)})
    assert from_safetensors(to_safetensors(model), "m") == model
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    assert again == model
    assert not again["a"].flags.writeable


@pytest.mark.parametrize("dtype", ["BF16", "BOOL", "F8_E4M3", "nonsense"])
def test_other_safetensors_are_refused(dtype):
    """Types that we do not compute with are an error of the sender."""
    size = 2 if dtype == "BF16" else 1
    header = json.dumps({"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    with pytest.raises(BadInput):
        from_safetensors(struct.pack("<Q", len(header)) + header + b"\0" * size, "m")


def test_like_names_the_difference():
    """Missing, extra, shape, dtype: each is said."""
    base = tensors(w=[1, 2], b=0)
    check_like(tensors(w=[3, 4], b=1), base)
    for other, said in (
        (tensors(w=[1, 2]), "lacks 'b'"),
        (tensors(w=[1, 2], b=0, c=0), "has 'c'"),
        (tensors(w=[1, 2, 3], b=0), r"shape \[3\]; the model's is \[2\]"),
        (cast_like(base, Tensors({"w": np.zeros(2, "f4")})), "is float32; the model's is float64"),
    ):
        with pytest.raises(BadInput, match=said) as caught:
            check_like(other, base)
        assert caught.value.reason == "wrong_shape"


def test_cast_follows_the_model_and_loses_nothing_unsaid():
    """JSON takes the model's dtypes; fractions for whole numbers and overflow are noticed."""
    base = Tensors({"i": np.zeros(2, "i1"), "f": np.zeros(2, "f4")})
    cast = cast_like(tensors(i=[-128, 127], f=[0.1, 2]), base)
    check_like(cast, base)
    assert cast["f"][0] == np.float32(0.1)
    for bad in ([0.5, 0], [128, 0], [float("nan"), 0]):
        with pytest.raises(BadInput, match="do not fit"):
            cast_like(tensors(i=bad, f=[0, 0]), base)
    with pytest.raises(BadInput, match="NaN or infinity"):
        check_finite(cast_like(tensors(i=[0, 0], f=[1e300, 0]), base))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_finite_check_finds_one_bad_value_anywhere(bad):
    """Among good ones, in any tensor."""
    check_finite(tensors(a=[1, 2, 3], e=[]))
    for position in range(3):
        values = [1.0, 2.0, 3.0]
        values[position] = bad
        with pytest.raises(BadInput) as caught:
            check_finite(tensors(a=[1.0], b=values))
        assert caught.value.reason == "not_finite"


def test_size_bounds():
    """A value or a norm over the limit is refused as too large."""
    check_finite(tensors(a=[-5, 5]), abs_max=5)
    for values in ([6.0], [-6.0]):
        with pytest.raises(BadInput) as caught:
            check_finite(tensors(a=values), abs_max=5)
        assert caught.value.reason == "too_large"
    assert norm(tensors(a=[3], b=[[4]])) == 5
    assert norm(frozen({"a": np.full(200_000, 2.0, "f4")})) == pytest.approx(2 * 200_000**0.5)
    check_norm(tensors(a=[3], b=4), norm_max=5)
    for values in ([3.1, 4.0], [1e300, 1e300]):
        with pytest.raises(BadInput, match="L2 norm"):
            check_norm(tensors(a=values), norm_max=5)
