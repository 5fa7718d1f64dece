"""RLDS on disk, as TensorFlow Datasets lays it out: TFRecord files of `tf.train.Example`, read and written."""
