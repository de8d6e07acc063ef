"""LeRobot data sets without lerobot: recordings in, v3 out; v2.1 and v3 read; checked, merged, split, filtered.

bag.py      recording -> frames of one episode          schema.py  which columns, from the robot spec
episode.py  one finished episode on disk                assemble.py  episodes -> data set, in one atomic step
convert.py  many recordings, resumable                  reader.py, rows.py  v2.1 and v3, ours and others'
pictures.py  rows and pictures, joined by stamps        check.py, check_pictures.py, lag.py, edit.py  what is wrong, and what to keep
stats.py, video.py  as lerobot wants them               agibot.py  AgiBot World's raw layout in
"""
