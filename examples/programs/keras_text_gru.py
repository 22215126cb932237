"""Words to numbers to a GRU: TextVectorization, Embedding and GRU on generated sentences."""

import os
import random

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

GOOD, BAD = ["fine", "bright", "quick", "warm"], ["dull", "slow", "cold", "broken"]
THINGS = ["engine", "lamp", "river", "train", "house"]


def sentences(count):
    for _ in range(count):
        good = random.random() < 0.5
        words = [random.choice(GOOD if good else BAD) for _ in range(random.randint(1, 3))]
        yield " ".join(["the", random.choice(THINGS), "is", *words]), int(good)


random.seed(9)
keras.utils.set_random_seed(9)
texts, labels = map(list, zip(*sentences(400)))
vectorize = keras.layers.TextVectorization(max_tokens=50, output_sequence_length=8)
vectorize.adapt(texts)
ids = vectorize(tf.constant(texts))
model = keras.Sequential(
    [
        keras.layers.Embedding(50, 12, mask_zero=True),
        keras.layers.GRU(12),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["accuracy"])
history = model.fit(ids, np.array(labels), epochs=4, batch_size=40, verbose=0)
print("vocabulary:", vectorize.vocabulary_size(), "ids:", ids.shape)
print("learnt:", history.history["accuracy"][-1] > 0.9)
for text in ("the lamp is bright", "the river is cold cold"):
    print(text, "→", "good" if model(vectorize(tf.constant([text])))[0, 0] > 0.5 else "bad")
