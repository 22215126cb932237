"""The libraries that are metered by default, and where their users know their parts from."""

KNOWN = frozenset(
    (
        "accelerate",
        "bitsandbytes",
        "catboost",
        "cupy",
        "datasets",
        "deepspeed",
        "dgl",
        "diffusers",
        "einops",
        "equinox",
        "fastai",
        "flax",
        "gluonts",
        "haiku",
        "jax",
        "keras",
        "keras_cv",
        "keras_hub",
        "keras_nlp",
        "lightgbm",
        "lightning",
        "mlx",
        "mxnet",
        "onnx",
        "onnxruntime",
        "optax",
        "orbax",
        "paddle",
        "peft",
        "pytorch_lightning",
        "sentence_transformers",
        "sklearn",
        "tensorflow",
        "tensorflow_addons",
        "tensorflow_datasets",
        "tensorflow_hub",
        "tensorflow_probability",
        "tf_keras",
        "tflite_runtime",
        "thinc",
        "timm",
        "tinygrad",
        "torch",
        "torch_geometric",
        "torchaudio",
        "torchmetrics",
        "torchtext",
        "torchvision",
        "tqdm",
        "transformers",
        "triton",
        "trl",
        "ultralytics",
        "xgboost",
    )
)
"""Deep-learning libraries (and ``tqdm``, through which loaders are iterated): metered where a script
imports them, if no API is named."""

ALSO: dict[str, tuple[str, ...]] = {
    "jax": ("jaxlib",),
    "tensorflow": ("keras", "_pywrap_tensorflow"),
    "lightning": ("pytorch_lightning", "lightning_fabric"),
    "numpy": ("_multiarray_umath",),
    "numba": ("_dispatcher",),
}
"""Packages that implement what another one offers."""

PUBLIC: dict[str, tuple[str, ...]] = {
    "torch": (
        "torch",
        "torch.nn.functional",
        "torch.nn",
        "torch.nn.init",
        "torch.nn.utils",
        "torch.optim",
        "torch.linalg",
        "torch.func",
        "torch.fft",
        "torch.special",
        "torch.utils.data",
        "torch.autograd",
        "torch.sparse",
        "torch.signal.windows",
        "torch.distributions",
        "torch.cuda",
        "torch.cuda.amp",
        "torch.amp",
        "torch.jit",
        "torch.distributed",
    ),
    "keras": (
        "keras.layers",
        "keras.ops",
        "keras.optimizers",
        "keras.losses",
        "keras.metrics",
        "keras.datasets",
        "keras.utils",
    ),
    "jax": (
        "jax",
        "jax.numpy",
        "jax.nn",
        "jax.lax",
        "jax.random",
        "jax.scipy",
        "jax.tree",
        "jax.tree_util",
    ),
}
"""Where users know a thing from, when its own module is one that nobody imports."""

UFUNCS = ("numpy", "scipy.special", "numpy.linalg._umath_linalg")
"""Where NumPy's functions of elements are known from."""

MAKERS = {
    "torch._dynamo.eval_frame.DisableContext.__call__": "torch.compiler.disable",
    "torch.amp.autocast_mode.autocast_decorator": "torch.autocast",
}
"""What makes a wrapper of a user's function, where its users know it by a name that cannot be found."""
