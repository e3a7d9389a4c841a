# SPDX-License-Identifier: Apache-2.0
"""From a float ONNX model to an int8 .tflite file that a unit can load, with the loss measured."""
