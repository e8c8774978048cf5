"""The network against what the authors' own returns with the same weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ContextConfig, ModelConfig
from wsicl_jax.errors import ShapeError
from wsicl_jax.model.context import mean_over_contexts
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.lightning_reader import read_lightning
from wsicl_jax.weights.tensor_names import fill_from_state_dict, to_state_dict

DATA = Path(__file__).parents[1] / "data"
# Compiles in half the time; the numbers are held to the same tolerances.
COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


def authors_model(mini_context: int, *, precision="float32", **processing) -> DualBranch:
    config, tensors, *_ = read_lightning(DATA / "tiny_lightning.ckpt")
    config = ModelConfig(
        channels=config.channels,
        context=ContextConfig(mini_context=mini_context, **processing),
        precision=precision,
    )
    model = DualBranch.abstract(config)
    fill_from_state_dict(model, tensors)
    return model


def compiled(function, model: DualBranch):
    """`function(model, *inputs)` compiled, and the model's parameters to call it with."""
    graph, parameters = nnx.split(model)
    merged = jax.jit(
        lambda parameters, *inputs: function(nnx.merge(graph, parameters), *inputs),
        compiler_options=COMPILER_OPTIONS,
    )
    return lambda *inputs: merged(parameters, *inputs)


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "tiny_forward.npz") as file:
        return dict(file)


def inputs(golden, prefix: str = ""):
    names = ("target", "context_image", "context_prompt")
    return [golden[prefix + name][None, ..., None] for name in names]


@pytest.mark.parametrize("mini_context", [1, 2, 5])
def test_output_is_the_authors(golden, mini_context, agree):
    forward = compiled(lambda model, *x: model(*x), authors_model(mini_context))
    expected = golden[f"output_mini_context_{mini_context}"]
    agree("authors: output", forward(*inputs(golden))[0, ..., 0], expected, 1e-5)


def test_output_of_unequal_sides_is_the_authors(golden, agree):
    forward = compiled(lambda model, *x: model(*x), authors_model(mini_context=0))
    output = forward(*inputs(golden, "aniso_"))
    assert output.shape == (1, 24, 16, 32, 1)
    agree("authors: output", output[0, ..., 0], golden["aniso_output"], 1e-5)


def test_mean_context_features_are_the_authors(golden, agree):
    def features(model, target, images, prompts):
        shortcuts, _ = model.target_encoder(target)
        return mean_over_contexts(
            model.context_branch, images, prompts, None, shortcuts, model.config.context
        )

    means = compiled(features, authors_model(mini_context=0))(*inputs(golden))
    assert len(means) == 3
    for i, mean in enumerate(means):
        expected = np.moveaxis(golden[f"context_feature_mean_{i}"], 0, -1)
        agree("authors: mean context features", mean[0], expected, 1e-5)


def test_loss_and_gradients_are_the_authors(golden, agree):
    def mean_square(model, *x):
        graph, parameters = nnx.split(model)
        return jax.value_and_grad(lambda p: (nnx.merge(graph, p)(*x) ** 2).mean())(parameters)

    model = authors_model(mini_context=2)
    loss, gradients = compiled(mean_square, model)(*inputs(golden))
    np.testing.assert_allclose(loss, golden["loss_mean_square"], rtol=1e-5)
    named = to_state_dict(nnx.merge(nnx.graphdef(model), gradients))
    expected = {name: value for name, value in golden.items() if name.startswith("grad/")}
    assert len(expected) == 4
    for name, value in expected.items():
        given = named[name.replace("grad/", "net.")]
        agree("authors: gradients, relative", given, value, 1e-4, relative=True)


def gradients_of_mean_square(golden, model, weights=None):
    """Every parameter's gradient by name, with the last context left out by `weights`."""

    def gradients(model, *x):
        graph, parameters = nnx.split(model)
        return jax.grad(lambda p: (nnx.merge(graph, p)(*x) ** 2).mean())(parameters)

    shown = inputs(golden) + ([] if weights is None else [np.array([weights], np.float32)])
    return to_state_dict(nnx.merge(nnx.graphdef(model), compiled(gradients, model)(*shown)))


@pytest.fixture(scope="module")
def gradients_of_all_at_once(golden):
    return gradients_of_mean_square(golden, authors_model(0))


@pytest.mark.parametrize(("mini_context", "remat"), [(1, "context"), (3, "stage")])
def test_every_gradient_is_that_of_all_contexts_at_once(
    golden, gradients_of_all_at_once, mini_context, remat, agree
):
    found = gradients_of_mean_square(golden, authors_model(mini_context, remat=remat))
    for name, expected in gradients_of_all_at_once.items():
        agree("exact gradient in parts, relative", found[name], expected, 1e-4, relative=True)


def test_contexts_of_weight_0_change_no_gradient(golden, agree):
    weights = [1, 1, 1, 1, 0]
    found = gradients_of_mean_square(golden, authors_model(2), weights)
    golden = {k: v[:4] if k.startswith("context_") else v for k, v in golden.items()}
    for name, expected in gradients_of_mean_square(golden, authors_model(0)).items():
        agree("exact gradient in parts, relative", found[name], expected, 1e-4, relative=True)


def test_bfloat16_stays_near_float32(golden, agree):
    exact, short = (
        compiled(lambda model, *x: model(*x), authors_model(2, precision=precision))(
            *inputs(golden)
        )
        for precision in ("float32", "bfloat16")
    )
    assert short.dtype == jnp.float32
    assert (np.asarray(short) != np.asarray(exact)).any()
    agree("bfloat16: output", short, exact, 0.02, relative=True)


def test_bfloat16_gradients_point_where_those_of_float32_do(golden, gradients_of_all_at_once):
    found = gradients_of_mean_square(golden, authors_model(2, precision="bfloat16"))
    both = [
        np.concatenate([np.ravel(g) for g in gradients.values()])
        for gradients in (found, gradients_of_all_at_once)
    ]
    assert found.keys() == gradients_of_all_at_once.keys()
    a, b = (np.float64(x) for x in both)
    assert a @ b / np.sqrt(a @ a * (b @ b)) > 0.999


def test_the_mean_over_contexts_is_summed_in_float32_of_bfloat16_maps(golden):
    model = authors_model(1, precision="bfloat16")

    def means(model, target, images, prompts):
        shortcuts, _ = model.target_encoder(jnp.asarray(target, jnp.bfloat16))
        assert shortcuts[0].dtype == jnp.bfloat16
        context = model.config.context
        return mean_over_contexts(model.context_branch, images, prompts, None, shortcuts, context)

    for mean in compiled(means, model)(*inputs(golden)):
        assert mean.dtype == jnp.float32
        assert (mean != mean.astype(jnp.bfloat16)).any()


@pytest.fixture
def unchecked():
    """Annotations unchecked, as users run it: with checks, some shapes are refused before."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("size", [(8, 8, 6), (8, 10, 8), (9, 8, 8)])
def test_size_that_is_no_multiple_is_refused_with_the_size_to_pad_to(size):
    padded = tuple(-(-n // 4) * 4 for n in size)
    contexts = jnp.zeros((1, 2, *size, 1))
    with pytest.raises(ShapeError, match="multiple of 4") as error:
        authors_model(0)(jnp.zeros((1, *size, 1)), contexts, contexts)
    assert str(padded) in str(error.value)


@pytest.mark.parametrize(
    ("context_shape", "said"),
    [
        ((1, 2, 8, 8, 12, 1), r"\(8, 8, 12\)"),
        ((1, 0, 8, 8, 8, 1), "L >= 1"),
        ((2, 2, 8, 8, 8, 1), "batch 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_contexts_that_do_not_fit_the_target_are_refused(context_shape, said):
    contexts = jnp.zeros(context_shape)
    with pytest.raises(ShapeError, match=said):
        authors_model(0)(jnp.zeros((1, 8, 8, 8, 1)), contexts, contexts)
