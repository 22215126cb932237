"""Networks: folding and fusing keep the work, and what has no kernel stays in sight."""

from dataclasses import replace

from joulemeter import kernels, layers
from joulemeter.network import Network, Node, fold, fuse


def node(kernel, name, reads, module=""):
    return Node(kernel, name, name, module, tuple(reads), (name,))


X = (1, 8, 14, 14)
CONV = layers.convolution(X, (8, 8, 3, 3), (1, 1), (1, 1), (1, 1))


def block() -> Network:
    return Network(
        "block",
        "test",
        (
            node(CONV, "conv", ["x"]),
            node(layers.batch_norm(X), "bn", ["conv"]),
            node(layers.activation("relu", X), "relu", ["bn"]),
            Node(None, "odd", "odd", "", ("relu",), ("odd",), 100.0, "no formula"),
        ),
    )


def test_folding_puts_the_norm_into_the_bias_and_keeps_the_products() -> None:
    folded = fold(block())
    assert [each.operator for each in folded.nodes] == ["conv", "relu", "odd"]
    first = folded.nodes[0]
    assert first.kernel is not None
    assert first.kernel.shape["bias"] == 1
    assert first.folded == ("bn",)
    assert kernels.multiply_adds(first.kernel) == kernels.multiply_adds(CONV)


def test_rules_fuse_neighbours_and_only_where_nobody_else_reads() -> None:
    rules = [("conv", "relu", "conv-relu")]
    fused = fuse(fold(block()), rules)
    assert [each.kernel and each.kernel.family for each in fused.nodes] == ["conv-relu", None]
    taken = replace(block(), nodes=(*fold(block()).nodes, node(layers.view(), "peek", ["bn"])))
    assert [each.kernel and each.kernel.family for each in fuse(taken, rules).nodes][:2] == ["conv", "relu"]


def test_a_broadcast_addition_does_not_fuse() -> None:
    added = layers.binary("add", X, (1, 8, 1, 1))
    network = Network("n", "test", (node(CONV, "conv", ["x"]), node(added, "add", ["conv", "b"])))
    assert len(fuse(network, [("conv", "add", "conv-add")]).nodes) == 2


def test_an_operator_without_a_kernel_is_counted() -> None:
    assert block().unpriced == {"odd": 1}
    assert len(block().kernels) == 3


def test_layers_spell_a_shape_alike_whatever_the_batch_is_counted_in() -> None:
    assert layers.activation("relu", (2, 3, 4)) == layers.activation("relu", (24,))
    assert layers.binary("add", (2, 3), (2, 3)).shape == {"elements": 6}
    assert layers.binary("mul", (1, 8, 14, 14), (1, 8, 1, 1)).shape == {
        "outer": 1, "channels": 8, "inner": 196, "broadcast": "channels",
    }  # fmt: skip
    assert layers.binary("add", (1, 7, 8), (8,)).shape == {
        "outer": 7,
        "channels": 1,
        "inner": 8,
        "broadcast": "outer",
    }
    assert layers.binary("add", (5,), ()).shape == {"elements": 5, "broadcast": "scalar"}


def test_same_padding_gives_as_many_results_as_the_stride_says() -> None:
    for size in range(5, 40):
        for window in (1, 2, 3, 5, 7):
            for stride in (1, 2, 3):
                p = layers.same_padding(size, window, stride)
                exact = (size + 2 * p - window) // stride + 1
                assert exact - -(-size // stride) in (0, 1)  # even windows cannot be padded evenly


def test_a_copy_in_order_is_plain_and_a_permuted_one_knows_its_run() -> None:
    assert layers.permuted_copy((4, 5), (5, 1)).shape["order"] == "kept"
    # heads × tokens × width out of tokens × heads × width: runs of width stay together.
    swapped = layers.permuted_copy((12, 197, 64), (64, 768, 1))
    assert swapped.shape == {"outer": 197, "middle": 12, "inner": 64}
