"""LeRobot data sets without lerobot: recordings in, v3 out; v2.1 and v3 read; checked, merged, split, filtered.

bag.py      recording -> frames of one episode          schema.py  which columns, from the robot spec
episode.py  one finished episode on disk                assemble.py  episodes -> data set, in one atomic step
convert.py  many recordings, resumable                  reader.py  v2.1 and v3, ours and others'
stats.py, video.py  as lerobot wants them               check.py, lag.py, edit.py  what is wrong, and what to keep
"""
