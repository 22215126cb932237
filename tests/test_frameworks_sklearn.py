"""scikit-learn's estimators as spans."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.base
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from joulemeter.frameworks import sklearn as estimators
from test_frameworks_torch import Sink

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2


@pytest.fixture
def sink():
    """What is written while the tracer runs."""
    tracer, made = estimators.tracer("module"), Sink()
    tracer.start(made)
    yield made
    tracer.stop()


def test_a_pipelines_fit_holds_those_of_its_steps(sink: Sink) -> None:
    make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    assert sink.spans[-1] == ("sklearn.pipeline.Pipeline.fit", 0)
    assert ("sklearn.linear_model.LogisticRegression.fit", 1) in sink.spans
    assert ("sklearn.preprocessing.StandardScaler.fit_transform", 1) in sink.spans


def test_methods_that_are_available_only_if_are_seen(sink: Sink) -> None:
    """Pipeline.predict is a descriptor that asks the last step."""
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    sink.spans.clear()
    assert set(model.predict(X)) <= {0, 1}
    assert sink.spans[-1] == ("sklearn.pipeline.Pipeline.predict", 0)


def test_an_estimator_defined_later_is_seen_under_its_own_name(sink: Sink) -> None:
    class Mean(sklearn.base.RegressorMixin, sklearn.base.BaseEstimator):
        def fit(self, x, y):
            self.mean_ = y.mean()
            return self

        def predict(self, x):
            return np.full(len(x), self.mean_)

    Mean().fit(X, Y).score(X, Y)
    names = [name.rpartition(">.")[2] for name, _ in sink.spans]
    assert names == ["Mean.fit", "Mean.predict", "Mean.score"]


def test_a_users_estimator_is_sent_to_workers_without_the_meter(sink: Sink) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")

    class Mean(sklearn.base.RegressorMixin, sklearn.base.BaseEstimator):
        def fit(self, x, y):
            self.mean_ = y.mean()
            return self

    assert Mean().fit(X, Y).mean_ == 0.5
    copied = cloudpickle.dumps(Mean())
    assert b"Sink" not in copied
    program = (
        "import pickle, sys, numpy\nprint(pickle.load(sys.stdin.buffer).fit(None, numpy.arange(3)).mean_)"
    )
    program += "\nassert not any(name.startswith('joulemeter') for name in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], input=copied, capture_output=True, check=True)
    assert done.stdout == b"1.0\n"


def test_predictions_are_the_same_and_clones_work(sink: Sink) -> None:
    model = LogisticRegression().fit(X, Y)
    assert np.array_equal(sklearn.base.clone(model).fit(X, Y).predict(X), model.predict(X))


def test_stopping_leaves_every_class_as_it_was() -> None:
    classes = [*estimators._family(sklearn.base.BaseEstimator)]
    before = [dict(cls.__dict__) for cls in classes]
    tracer = estimators.tracer("module")
    tracer.start(Sink())
    assert LogisticRegression.fit is not before[classes.index(LogisticRegression)]["fit"]
    tracer.stop()
    assert [dict(cls.__dict__) for cls in classes] == before
