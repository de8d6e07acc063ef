"""Finds hands and faces in pictures. Runs in an environment of its own (:mod:`wbvla_train.data.film.people`), never inside wbvla's.

Reads from standard input: a line of JSON {"frames": N, "height": H, "width": W}, then N pictures of H x W x 3 bytes RGB. Answers each
request with one line of JSON: per picture {"hands": [[score, height]], "faces": [[score, height]]}, heights as shares of the picture's.
Needs mediapipe and numpy, nothing of wbvla.
"""

import importlib
import json
import os
import sys

import numpy as np


def main() -> int:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    mediapipe = importlib.import_module("mediapipe")  # of this environment; no requirement of wbvla, whose imports are held to its lists
    solutions = mediapipe.solutions
    hands = solutions.hands.Hands(static_image_mode=True, max_num_hands=4, model_complexity=1, min_detection_confidence=0.5)
    faces = solutions.face_detection.FaceDetection(model_selection=1, min_detection_confidence=0.6)
    answers.write(json.dumps({"mediapipe": mediapipe.__version__}) + "\n")
    answers.flush()
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        shape = (request["height"], request["width"], 3)
        found = []
        for _ in range(request["frames"]):
            picture = np.frombuffer(sys.stdin.buffer.read(shape[0] * shape[1] * 3), np.uint8).reshape(shape)
            seen = {"hands": [], "faces": []}
            result = hands.process(picture)
            for points, side in zip(result.multi_hand_landmarks or (), result.multi_handedness or ()):
                y = [point.y for point in points.landmark]
                seen["hands"].append([round(side.classification[0].score, 3), round(max(y) - min(y), 3)])
            for face in faces.process(picture).detections or ():
                seen["faces"].append([round(face.score[0], 3), round(face.location_data.relative_bounding_box.height, 3)])
            found.append(seen)
        answers.write(json.dumps(found) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
